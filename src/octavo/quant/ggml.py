"""ggml's blocks of 32 values that become packed forms as they are: Q8_0, Q4_0, Q4_1 (ggml-common.h).

A row is a run of blocks, each a scale (float16), for Q4_1 a minimum (float16), and the codes. Byte j of a 4-bit block
holds value j in its low half and value j + 16 in its high half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import Array, Weight

BLOCK = 32  # values in a block


def q8_0(raw: Array) -> Weight:
    """value = scale * code, codes -128..127. raw  # uint8 [rows, blocks * 34]"""
    blocks = raw.reshape(raw.shape[0], -1, 34)
    codes = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(raw.shape[0], -1)
    return Weight.int8(codes, _halves(blocks, 0))


def q4_0(raw: Array) -> Weight:
    """value = scale * (code - 8), codes 0..15. raw  # uint8 [rows, blocks * 18]"""
    blocks = raw.reshape(raw.shape[0], -1, 18)
    return Weight.int4(_nibbles(blocks[:, :, 2:]), _halves(blocks, 0))


def q4_1(raw: Array) -> Weight:
    """value = scale * code + minimum, codes 0..15. raw  # uint8 [rows, blocks * 20]"""
    blocks = raw.reshape(raw.shape[0], -1, 20)
    return Weight.int4_min(_nibbles(blocks[:, :, 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _halves(blocks: Array, at: int) -> npt.NDArray[np.float16]:
    """The float16 at byte `at` of every block. [rows, blocks]"""
    values = np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0]
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity as a scale or minimum")
    return np.asarray(values, np.float16)


def _nibbles(codes: Array) -> npt.NDArray[np.uint8]:
    """One code a byte, in the order of the values. codes  # uint8 [rows, blocks, 16] -> [rows, blocks * 32]"""
    rows, blocks, half = codes.shape
    out = np.empty((rows, blocks, 2, half), np.uint8)
    np.bitwise_and(codes, 15, out=out[:, :, 0])
    np.right_shift(codes, 4, out=out[:, :, 1])
    return out.reshape(rows, blocks * BLOCK)
