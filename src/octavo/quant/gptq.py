"""GPTQ as AutoGPTQ, GPTQModel and transformers write it: codes of 2, 3, 4 or 8 bits in int32 words along the inputs.

    qweight  I32 [cols * bits / 32, rows]      codes, one run of bits along the inputs
    qzeros   I32 [groups, rows * bits / 32]    zeros, one run of bits along the outputs; version 1 holds zero - 1
    scales       [groups, rows]
    g_idx    I32 [cols]                        the group of each input; absent: groups side by side

value = scale * (code - zero). In act-order g_idx is no sequence of whole groups: see grouped.py. What the first version
took away is given back as GPTQModel took it: word by word, where a zero of 0 borrowed from its neighbour.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Derived
from octavo.core.errors import ModelError
from octavo.quant.bits import run_of_bits, words_in_run
from octavo.quant.grouped import Columns, Integers, blocks_of, weight_of
from octavo.quant.module import Declared, Module, floats, group_index, words
from octavo.quant.plain import PLAIN

MARK = ".qweight"
PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
BITS = (2, 3, 4, 8)


def weight(module: Module, declared: Declared) -> Derived:
    """The weight of a module. Raises ModelError for parts that do not fit each other."""
    version = "checkpoint_format" if declared.values.get("checkpoint_format") is not None else "format"
    ones = declared.one_of(version, "gptq", "gptq_v2", default="gptq") == "gptq"
    declared.one_of("pack_dtype", "int32", default="int32")
    bits = _bits(module, declared)
    packed = module.part(MARK, ("I32",), -1, -1)
    rows, cols = packed.shape[1], packed.shape[0] * 32 // bits
    if packed.shape[0] % words_in_run(bits) or rows * bits % 32:
        raise module.wrong(MARK, f"codes of {bits} bits do not fill it")
    groups = module.part(".scales", PLAIN, -1, rows).shape[0]
    module.part(".qzeros", ("I32",), groups, rows * bits // 32)
    columns = _columns(module, declared, cols, groups)
    symmetric = bool((_zeros(module, bits, ones) == 1 << (bits - 1)).all())

    def read() -> Integers:
        codes = run_of_bits(np.ascontiguousarray(words(packed).T), bits)
        return Integers(codes, floats(module.stored[".scales"]).T, _zeros(module, bits, ones))

    return weight_of(module, (rows, cols), bits, symmetric, columns, read)


def _bits(module: Module, declared: Declared) -> int:
    """Bits of a code: as g_idx tells, since one model may have modules of several, or as declared."""
    bits = declared.one_of("bits", *BITS)
    index, packed = module.stored.get(".g_idx"), module.stored[MARK]
    if index is None or len(index.shape) != 1 or len(packed.shape) != 2:
        return int(bits)
    fitting = [bits for bits in BITS if packed.shape[0] * 32 == index.shape[0] * bits]
    if not fitting:
        raise module.wrong(".g_idx", f"which does not fit {packed.shape[0]} words of codes")
    return fitting[0]


def _columns(module: Module, declared: Declared, cols: int, groups: int) -> Columns:
    """The group of each input."""
    if module.has(".g_idx"):
        return group_index(module, ".g_idx", cols, groups)
    size = declared.values.get("group_size", -1)
    if type(size) is not int or not (size == -1 or 0 < size < 1 << 31):
        raise declared.refused("group_size", "-1 or a number of inputs")
    if -(-cols // (size if size > 0 else cols)) != groups:
        raise ModelError(f"{declared.where}.group_size: {size} does not fit the {groups} groups of {module.name}")
    return blocks_of(cols, size if size > 0 else cols)


def _zeros(module: Module, bits: int, ones: bool) -> npt.NDArray[np.int16]:
    """[rows, groups]"""
    packed = words(module.stored[".qzeros"])
    if ones and bits != 3:
        packed = packed + np.uint32(sum(1 << at for at in range(0, 32, bits)))
    zeros = run_of_bits(packed, bits)
    if ones and bits == 3:  # whose codes lie across words: one by one
        zeros = (zeros + np.uint8(1)) & np.uint8(7)
    return np.ascontiguousarray(zeros.T).astype(np.int16)
