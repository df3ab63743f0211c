"""AWQ as AutoAWQ writes it: 4-bit codes with a zero for each group, packed for one of its two kernels.

GEMM: eight outputs in a word, in the order 0 2 4 6 1 3 5 7 from the lowest bits up:

    qweight  I32 [cols, rows / 8]        qzeros  I32 [groups, rows / 8]       scales  [groups, rows]

GEMV: eight inputs in a word, in order; the groups padded to fill words:

    qweight  I32 [rows, cols / 8]        qzeros  I32 [rows, words]            scales  [rows, 8 * words]

value = scale * (code - zero).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.quant.bits import run_of_bits
from octavo.quant.grouped import Integers, blocks_of, form_of, rows_of
from octavo.quant.module import Declared, Module, Stored, floats, words
from octavo.quant.plain import PLAIN

MARK = ".qweight"
PARTS = (".qweight", ".qzeros", ".scales")
BITS = 4
VERSIONS = ("version", "checkpoint_format", "format")  # what tools call the packing
PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # where in a word of GEMM each of eight outputs lies


def weight(module: Module, declared: Declared) -> Derived:
    """The weight of a module. Raises ModelError for parts that do not fit each other."""
    declared.one_of("bits", BITS)
    declared.one_of("zero_point", True, default=True)
    field = next((field for field in VERSIONS if declared.values.get(field) is not None), VERSIONS[0])
    version = declared.one_of(field, "gemm", "GEMM", "gemv", "GEMV", default="gemm")
    return _gemm(module) if version.lower() == "gemm" else _gemv(module, declared)


def _gemm(module: Module) -> Derived:
    packed = module.part(MARK, ("I32",), -1, -1)
    rows, cols = packed.shape[1] * 8, packed.shape[0]
    groups = module.part(".scales", PLAIN, -1, rows).shape[0]
    zeros = module.part(".qzeros", ("I32",), groups, rows // 8)
    if cols % groups:
        raise module.wrong(".scales", f"which does not divide {cols} inputs into groups")
    columns = blocks_of(cols, cols // groups)
    form = form_of(BITS, False, columns)

    def build() -> Bytes:
        scale = floats(module.stored[".scales"]).T
        integers = Integers(_outputs(packed), scale, _outputs(zeros).astype(np.int16))
        return rows_of(form, integers, BITS, columns)

    return Derived(f"{module.name}.weight", form, (rows, cols), module.parts, build)


def _gemv(module: Module, declared: Declared) -> Derived:
    packed = module.part(MARK, ("I32",), -1, -1)
    rows, cols = packed.shape[0], packed.shape[1] * 8
    size = declared.values.get("group_size")
    size = cols if size == -1 else size
    if type(size) is not int or size <= 0 or cols % size:
        raise declared.refused("group_size", f"-1 or a divisor of {cols}, the inputs of {module.name}")
    groups = cols // size
    zeros = module.part(".qzeros", ("I32",), rows, -1)
    if zeros.shape[1] * 8 < groups:
        raise module.wrong(".qzeros", f"expected zeros for {groups} groups")
    module.part(".scales", PLAIN, rows, zeros.shape[1] * 8)
    columns = blocks_of(cols, size)
    form = form_of(BITS, False, columns)

    def build() -> Bytes:
        scale = floats(module.stored[".scales"])[:, :groups]
        zero = run_of_bits(words(zeros), BITS)[:, :groups].astype(np.int16)
        return rows_of(form, Integers(run_of_bits(words(packed), BITS), scale, zero), BITS, columns)

    return Derived(f"{module.name}.weight", form, (rows, cols), module.parts, build)


def _outputs(tensor: Stored) -> npt.NDArray[np.uint8]:
    """Codes of GEMM, an output a row. [rows, inputs or groups]"""
    codes = run_of_bits(words(tensor), BITS).reshape(tensor.shape[0], -1, 8)[:, :, PLACES]
    return np.ascontiguousarray(codes.reshape(tensor.shape[0], -1).T)
