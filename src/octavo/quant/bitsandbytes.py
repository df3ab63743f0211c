"""bitsandbytes as transformers saves it: 8-bit integers (LLM.int8), and the 4-bit floats NF4 and FP4.

8 bit: weight I8 [rows, cols] and SCB F32 [rows]; value = code * SCB / 127.

4 bit: codes in the order of the whole matrix, the first of two in the high half of a byte, in blocks that each have a
largest size: weight.absmax F32 [blocks], or, quantized twice, U8 [blocks] codes of weight.nested_quant_map, times
weight.nested_absmax of every nested block, plus an offset. weight.quant_state.bitsandbytes__nf4 (or fp4) is JSON of
shape, blocksize, nested_blocksize and nested_offset. value = absmax * number (coded.py).
"""

from __future__ import annotations

import json
from math import gcd, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.quant.bits import nibbles
from octavo.quant.coded import TABLES, coded_rows
from octavo.quant.grouped import Integers, blocks_of, form_of, rows_of
from octavo.quant.module import Declared, Module, floats, raw_bytes

MARK = ".weight"
STATES = {f".weight.quant_state.bitsandbytes__{name}": name.upper() for name in ("nf4", "fp4")}
FOUR_BIT = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
PARTS = (MARK, ".SCB", ".weight_format", *(MARK + part for part in FOUR_BIT), *STATES)
STATE_BYTES = 1 << 16  # most bytes of the JSON


def weight(module: Module, declared: Declared) -> Derived | None:
    """The weight of a module; None where it is not quantized. Raises ModelError for parts that do not fit."""
    state = next((part for part in STATES if module.has(part)), None)
    if state is not None:
        return _four_bit(module, state)
    if module.has(".SCB") or module.stored[MARK].dtype == "I8":
        return _eight_bit(module)
    if module.has(MARK + ".absmax"):
        raise module.wrong(MARK + ".absmax", f"expected {' or '.join(STATES)} beside it")
    return None


def _eight_bit(module: Module) -> Derived:
    stored = module.part(MARK, ("I8",), -1, -1)
    rows, cols = stored.shape
    largest = module.part(".SCB", ("F32",), rows)
    if module.has(".weight_format"):
        layout = module.part(".weight_format", ("U8",), *module.stored[".weight_format"].shape)
        if layout.read().any():
            raise module.wrong(".weight_format", "only 0, rows in order, is supported")
    columns = blocks_of(cols, cols)
    form = form_of(8, True, columns)

    def build() -> Bytes:
        scale = floats(largest).reshape(rows, 1) / np.float32(127)
        zero = np.full((rows, 1), 128, np.int16)
        return rows_of(form, Integers(raw_bytes(stored) ^ np.uint8(128), scale, zero), 8, columns)

    return Derived(f"{module.name}{MARK}", form, (rows, cols), module.parts, build)


def _four_bit(module: Module, state_part: str) -> Derived:
    state = _State(module, state_part)
    packed, (rows, cols) = module.stored[MARK], state.shape
    if packed.nbytes * 2 != rows * cols:
        raise module.wrong(MARK, f"which does not hold {rows} x {cols} codes of 4 bits")
    blocks = -(-rows * cols // state.block)
    if module.has(MARK + ".nested_absmax"):
        module.part(MARK + ".absmax", ("U8",), blocks)
        module.part(MARK + ".nested_quant_map", ("F32",), 256)
        module.part(MARK + ".nested_absmax", ("F32",), -(-blocks // state.nested_block))
    else:
        module.part(MARK + ".absmax", ("F32",), blocks)
    table = STATES[state_part]
    quant_map = module.part(MARK + ".quant_map", ("F32",), 16)
    if not np.array_equal(floats(quant_map), TABLES[table]):
        raise module.wrong(MARK + ".quant_map", f"expected the numbers of {table}")
    group = gcd(state.block, cols)  # blocks run through the whole matrix, so one may end within a row

    def build() -> Bytes:
        scale = np.repeat(_absmax(module, state), state.block // group)[: rows * cols // group]
        codes = nibbles(packed.read().reshape(1, -1), high_first=True)
        return coded_rows(scale.reshape(rows, -1), codes.reshape(rows, cols))

    return Derived(f"{module.name}{MARK}", f"{table}/{group}", (rows, cols), module.parts, build)


def _absmax(module: Module, state: _State) -> npt.NDArray[np.float32]:
    """The largest size of each block."""
    stored = module.stored[MARK + ".absmax"]
    if stored.dtype == "F32":
        return floats(stored)
    sizes = floats(module.stored[MARK + ".nested_quant_map"])[raw_bytes(stored)]
    nested = floats(module.stored[MARK + ".nested_absmax"])
    sizes *= np.repeat(nested, state.nested_block)[: sizes.size]
    return np.asarray(sizes + state.nested_offset, np.float32)


class _State:
    """The JSON of a 4-bit module, checked."""

    def __init__(self, module: Module, part: str) -> None:
        tensor = module.part(part, ("U8",), -1)
        try:
            values = json.loads(tensor.read().tobytes()) if tensor.nbytes <= STATE_BYTES else None
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise module.wrong(part, "expected a JSON object")
        self._module, self._part, self._values = module, part, values
        shape = values.get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_size, shape)):
            raise module.wrong(part, "expected a shape of two sizes")
        self.shape: tuple[int, int] = (shape[0], shape[1])
        self.block = self._size("blocksize")
        nested = module.has(MARK + ".nested_absmax")
        self.nested_block = self._size("nested_blocksize") if nested else 1
        offset = values.get("nested_offset") if nested else 0.0
        if not isinstance(offset, (int, float)) or not isfinite(offset):
            raise module.wrong(part, "expected a finite nested_offset")
        self.nested_offset = np.float32(offset)

    def _size(self, name: str) -> int:
        value = self._values.get(name)
        if type(value) is not int or not _is_size(value):
            raise self._module.wrong(self._part, f"expected {name} to be a number of values")
        return value


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31
