"""ggml's blocks of 32 values: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL and MXFP4, all kept exactly (ggml-common.h).

A row is a run of blocks, each a scale, for some a minimum, and the codes. Byte j of a block's 4-bit codes holds value j
in its low half and value j + 16 in its high half; a fifth bit of value i is bit i of four bytes before them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import Array, Weight

BLOCK = 32  # values in a block
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # twice what E2M1 stands for


def q8_0(raw: Array) -> Weight:
    """value = scale * code, codes -128..127. raw  # uint8 [rows, blocks * 34]"""
    blocks = raw.reshape(raw.shape[0], -1, 34)
    codes = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(raw.shape[0], -1)
    return Weight.int8(codes, halves(blocks, 0))


def q4_0(raw: Array) -> Weight:
    """value = scale * (code - 8), codes 0..15. raw  # uint8 [rows, blocks * 18]"""
    blocks = raw.reshape(raw.shape[0], -1, 18)
    return Weight.int4(nibbles(blocks[:, :, 2:]), halves(blocks, 0))


def q4_1(raw: Array) -> Weight:
    """value = scale * code + minimum, codes 0..15. raw  # uint8 [rows, blocks * 20]"""
    blocks = raw.reshape(raw.shape[0], -1, 20)
    return Weight.int4_min(nibbles(blocks[:, :, 4:]), halves(blocks, 0), halves(blocks, 2))


def q5_0(raw: Array) -> Weight:
    """value = scale * (code - 16), codes 0..31. raw  # uint8 [rows, blocks * 22]"""
    blocks = raw.reshape(raw.shape[0], -1, 22)
    codes = nibbles(blocks[:, :, 6:]) | _fifth(blocks[:, :, 2:6])
    return Weight.int8(codes.view(np.int8) - np.int8(16), halves(blocks, 0))


def q5_1(raw: Array) -> Weight:
    """value = scale * code + minimum, codes 0..31. raw  # uint8 [rows, blocks * 24]"""
    blocks = raw.reshape(raw.shape[0], -1, 24)
    codes = nibbles(blocks[:, :, 8:]) | _fifth(blocks[:, :, 4:8])
    return Weight.int8_min(codes.view(np.int8), halves(blocks, 0), halves(blocks, 2))


def iq4_nl(raw: Array) -> Weight:
    """value = scale * IQ4[code]. raw  # uint8 [rows, blocks * 18]"""
    blocks = raw.reshape(raw.shape[0], -1, 18)
    return Weight.int4_table(nibbles(blocks[:, :, 2:]), halves(blocks, 0), IQ4)


def mxfp4(raw: Array) -> Weight:
    """value = 2^(exponent - 128) * FP4[code]; exact for exponents from 104 on. raw  # uint8 [rows, blocks * 17]"""
    blocks = raw.reshape(raw.shape[0], -1, 17)
    scale = np.ldexp(np.float32(1), blocks[:, :, 0].astype(np.int32) - 128)
    return Weight.int4_table(nibbles(blocks[:, :, 1:]), half(scale), FP4)


def halves(blocks: Array, at: int) -> npt.NDArray[np.float16]:
    """The float16 at byte `at` of every block. [rows, blocks]. Raises ValueError for NaN or infinity."""
    values = np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0]
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity as a scale or minimum")
    return np.asarray(values, np.float16)


def half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """The nearest float16. Raises ValueError for values beyond it."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ValueError("holds a scale or minimum beyond float16")
    return rounded


def nibbles(codes: Array) -> npt.NDArray[np.uint8]:
    """One code a byte, in the order of the values. codes  # uint8 [rows, blocks, n] -> [rows, blocks * 2n]"""
    rows, blocks, size = codes.shape
    out = np.empty((rows, blocks, 2, size), np.uint8)
    np.bitwise_and(codes, 15, out=out[:, :, 0])
    np.right_shift(codes, 4, out=out[:, :, 1])
    return out.reshape(rows, blocks * 2 * size)


def _fifth(bits: Array) -> npt.NDArray[np.uint8]:
    """16 for each bit that is set. bits  # uint8 [rows, blocks, 4] -> [rows, blocks * 32]"""
    ones = np.unpackbits(np.asarray(bits, np.uint8), axis=2, bitorder="little")
    return np.asarray(ones.reshape(bits.shape[0], -1) << np.uint8(4), np.uint8)
