"""8-bit floats with a scale: of the whole matrix, of each output, of blocks of inputs, or of square blocks (DeepSeek).

    weight            F8_E4M3 or F8_E5M2 [rows, cols]
    weight_scale      [], [1], [rows], [rows, 1] or [row blocks, column blocks]; weight_scale_inv is the same by an
                      older name

value = scale * float (coded.py). Blocks that do not divide the inputs are cut to groups that do. Scales of inputs and
caches are other engines' business: ours measures what it quantizes.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.quant import fp4
from octavo.quant.coded import coded_rows
from octavo.quant.module import Declared, Module, floats, raw_bytes
from octavo.quant.plain import PLAIN

MARK = ".weight"
SCALES = (".weight_scale", ".weight_scale_inv")
UNREAD = (".input_scale", ".input_scale_ub", ".output_scale", ".k_scale", ".v_scale", ".kv_scale", ".activation_scale")
PARTS = (MARK, *SCALES, fp4.SECOND, *UNREAD)
TABLES = {"F8_E4M3": "E4M3", "F8_E5M2": "E5M2"}
BLOCK = [128, 128]


def weight(module: Module, declared: Declared) -> Derived | None:
    """The weight of a module, None where it is not quantized. Raises ModelError for parts that do not fit."""
    if module.has(fp4.SECOND):
        return fp4.weight(module, MARK)
    if not module.stored[MARK].dtype.startswith("F8_"):
        return None
    packed = module.part(MARK, tuple(TABLES), -1, -1)
    rows, cols = packed.shape
    name = next((name for name in SCALES if module.has(name)), SCALES[0])
    high, wide = _blocks(module, declared, name, rows, cols)
    scale, group = module.stored[name], gcd(wide, cols)

    def build() -> Bytes:
        grid = np.resize(floats(scale), (-(-rows // high), -(-cols // wide)))
        groups = np.repeat(grid, wide // group, axis=1)[:, : cols // group]
        return coded_rows(np.repeat(groups, high, axis=0)[:rows], raw_bytes(packed))

    return Derived(f"{module.name}{MARK}", f"{TABLES[packed.dtype]}/{group}", (rows, cols), module.parts, build)


def _blocks(module: Module, declared: Declared, name: str, rows: int, cols: int) -> tuple[int, int]:
    """Outputs and inputs that share a scale."""
    found = module.stored.get(name)
    shape = found.shape if found is not None else ()
    if found is not None and shape in ((), (1,), (1, 1)):
        module.part(name, PLAIN, *shape)
        return rows, cols
    if shape == (rows,):
        module.part(name, PLAIN, rows)
        return 1, cols
    scales = module.part(name, PLAIN, -1, -1).shape
    if scales == (rows, 1):
        return 1, cols
    for high, wide in (_declared_block(declared), (1, cols // scales[1])):
        if wide and scales == (-(-rows // high), -(-cols // wide)):
            return high, wide
    raise module.wrong(name, f"which does not divide a weight of {rows} x {cols} into blocks")


def _declared_block(declared: Declared) -> tuple[int, int]:
    """Outputs and inputs of a block: 128 of each unless said otherwise."""
    value = declared.values.get("weight_block_size") or BLOCK
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int and 0 < v < 1 << 31 for v in value):
        raise declared.refused("weight_block_size", "a list of two sizes")
    return value[0], value[1]
