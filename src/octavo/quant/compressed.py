"""compressed-tensors, as llm-compressor writes it: packed integers, integers of a byte, 8-bit floats.

pack-quantized, codes that never cross words, each holding code + half of the codes:

    weight_packed      I32 [rows, words]              weight_shape   [2], rows and cols
    weight_scale           [rows, groups] or [1]      weight_g_idx   I32 [cols], in act-order
    weight_zero_point  I32 [words, groups], along the outputs, or I8 [rows, groups]; absent: 0

int-quantized: weight I8 [rows, cols], with weight_scale and weight_zero_point I8 of [rows, groups], [rows, 1] or [1].
float-quantized: as fp8.py; nvfp4- and mxfp4-pack-quantized: as fp4.py. value = scale * (code - zero).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Derived
from octavo.core.errors import ModelError
from octavo.quant import fp4, fp8
from octavo.quant.bits import word_by_word
from octavo.quant.grouped import Columns, Integers, blocks_of, weight_of
from octavo.quant.module import Declared, Module, Stored, floats, group_index, raw_bytes, words
from octavo.quant.plain import PLAIN

PACKED = ".weight_packed"
SCALE, ZERO, INDEX, SHAPE = ".weight_scale", ".weight_zero_point", ".weight_g_idx", ".weight_shape"
UNREAD = (*fp8.UNREAD, ".input_zero_point", ".output_zero_point", ".input_global_scale")
PACKED_PARTS = (PACKED, SCALE, ZERO, INDEX, SHAPE, fp4.GLOBAL, *UNREAD)
PARTS = (".weight", SCALE, ZERO, INDEX, *UNREAD)
FLOATS = ("float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")
FORMATS = ("pack-quantized", "int-quantized", *FLOATS, "naive-quantized", "mixed-precision", "dense")


def check(declared: Declared) -> None:
    """Refuse what the tensors alone do not show. Raises ModelError."""
    declared.one_of("format", *FORMATS, default="dense")
    for group in declared.objects("config_groups").values():
        if group.get("format") not in (None, *FORMATS):
            raise ModelError(f"{declared.where}.config_groups: the format {group['format']!r} is not supported")
    sparsity = declared.values.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise declared.refused("sparsity_config", "none: sparse weights are not read")
    transforms = declared.values.get("transform_config") or {}
    if not isinstance(transforms, dict) or transforms.get("config_groups"):
        raise declared.refused("transform_config", "none: transforms while running are not supported")


def packed_weight(module: Module, declared: Declared) -> Derived:
    """The weight of a module of packed codes. Raises ModelError for parts that do not fit each other."""
    if module.stored[PACKED].dtype == "U8":
        return fp4.weight(module, PACKED)
    rows, cols = _shape(module)
    packed = module.part(PACKED, ("I32",), rows, -1)
    bits = _bits(module, declared, cols)
    groups = _groups(module, rows)
    columns = _columns(module, cols, groups)
    zero = _zero_part(module, rows, groups, bits)

    def read() -> Integers:
        codes = word_by_word(words(packed), bits)[:, :cols]
        return Integers(codes, _scale(module, rows), _zeros(zero, rows, groups, bits))

    return weight_of(module, (rows, cols), bits, zero is None, columns, read)


def weight(module: Module, declared: Declared) -> Derived | None:
    """The weight of a module that stores a byte for each; None where it is not quantized. Raises ModelError."""
    if module.stored[".weight"].dtype != "I8":
        return fp8.weight(module, _with_block(declared))
    stored = module.part(".weight", ("I8",), -1, -1)
    rows, cols = stored.shape
    groups = _groups(module, rows)
    columns = _columns(module, cols, groups)
    zero = _zero_part(module, rows, groups, 8)

    def read() -> Integers:
        codes = raw_bytes(stored) ^ np.uint8(128)
        return Integers(codes, _scale(module, rows), _zeros(zero, rows, groups, 8))

    return weight_of(module, (rows, cols), 8, zero is None, columns, read)


def _shape(module: Module) -> tuple[int, int]:
    """Outputs and inputs of a packed weight."""
    tensor = module.part(SHAPE, ("I64", "I32"), 2)
    rows, cols = (int(size) for size in tensor.read().view("<i8" if tensor.dtype == "I64" else "<i4"))
    packed = module.part(PACKED, ("I32",), -1, -1)
    if rows != packed.shape[0] or not 0 < cols <= 32 * packed.shape[1]:
        raise module.wrong(PACKED, f"which cannot hold the {rows} x {cols} codes of its weight_shape")
    return rows, cols


def _bits(module: Module, declared: Declared, cols: int) -> int:
    """Bits of a code: those declared for any group that fill the words."""
    declared_bits = {_weights(group).get("num_bits") for group in declared.objects("config_groups").values()}
    stored = module.stored[PACKED].shape[1]
    for bits in sorted(bits for bits in declared_bits if type(bits) is int and 2 <= bits <= 8):
        if -(-cols // (32 // bits)) == stored:
            return bits
    raise module.wrong(PACKED, f"which no num_bits of {declared.where}.config_groups makes of {cols} inputs")


def _weights(group: Any) -> Any:
    found = group.get("weights")
    return found if isinstance(found, dict) else {}


def _groups(module: Module, rows: int) -> int:
    """Groups of a row; a scale of the whole matrix is one of every row."""
    scale = module.stored.get(SCALE)
    if scale is not None and scale.shape in ((), (1,), (1, 1)):
        module.part(SCALE, PLAIN, *scale.shape)
        return 1
    if scale is not None and scale.shape == (rows,):
        module.part(SCALE, PLAIN, rows)
        return 1
    return module.part(SCALE, PLAIN, rows, -1).shape[1]


def _scale(module: Module, rows: int) -> npt.NDArray[np.float32]:
    """[rows, groups]"""
    scale = floats(module.stored[SCALE])
    return np.broadcast_to(scale.reshape(1, 1), (rows, 1)) if scale.size == 1 else scale.reshape(rows, -1)


def _columns(module: Module, cols: int, groups: int) -> Columns:
    """The group of each input. llm-compressor writes -1 where there is no act-order."""
    if module.has(INDEX):
        index = module.part(INDEX, ("I32", "I64"), cols)
        if not (index.read().view("<i4" if index.dtype == "I32" else "<i8") == -1).all():
            return group_index(module, INDEX, cols, groups)
    if cols % groups:
        raise module.wrong(SCALE, f"which does not divide {cols} inputs into groups")
    return blocks_of(cols, cols // groups)


def _zero_part(module: Module, rows: int, groups: int, bits: int) -> Stored | None:
    """The zeros of a module; None where it has none, or they are all 0."""
    if not module.has(ZERO):
        return None
    tensor = module.stored[ZERO]
    if tensor.dtype == "I32" and len(tensor.shape) == 2 and module.has(PACKED):
        module.part(ZERO, ("I32",), -(-rows // (32 // bits)), groups)
    elif tensor.shape in ((), (1,), (1, 1), (rows,)) and groups == 1:
        module.part(ZERO, ("I8",), *tensor.shape)
    else:
        module.part(ZERO, ("I8",), rows, groups)
    return None if (_zeros(tensor, rows, groups, bits) == 1 << (bits - 1)).all() else tensor


def _zeros(tensor: Stored | None, rows: int, groups: int, bits: int) -> npt.NDArray[np.int16]:
    """[rows, groups], as the codes are: half of them added."""
    half = np.int16(1 << (bits - 1))
    if tensor is None:
        return np.full((rows, groups), half)
    if tensor.dtype == "I32":
        packed = np.ascontiguousarray(words(tensor).T)
        return np.ascontiguousarray(word_by_word(packed, bits)[:, :rows].T).astype(np.int16)
    zeros = tensor.read().view(np.int8).astype(np.int16) + half
    return np.broadcast_to(zeros.reshape(-1, groups), (rows, groups))


def _with_block(declared: Declared) -> Declared:
    """The settings with the block of float weights where fp8.py looks for it."""
    blocks = [_weights(group).get("block_structure") for group in declared.objects("config_groups").values()]
    found = next((block for block in blocks if block), None)
    return Declared(declared.where, {**declared.values, "weight_block_size": found})
