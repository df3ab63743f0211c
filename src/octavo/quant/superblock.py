"""ggml's superblocks of 256 values: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K and IQ4_XS (ggml-common.h).

A superblock holds one float16 scale, for some one of the minima, small integers that multiply them for each 16 or 32
values, and the codes. The product of scale and integer is rounded once to float16, and so is that of the minima; codes
are kept as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import Array, Weight
from octavo.quant.ggml import IQ4, half, halves, nibbles

BLOCK = 256  # values in a superblock

Bytes = npt.NDArray[np.uint8]


def q2_k(raw: Array) -> Weight:
    """value = d * scale * code - dmin * minimum for each 16, codes 0..3. raw  # uint8 [rows, superblocks * 84]"""
    blocks = _blocks(raw, 84)
    parts, codes = blocks[:, :, :16], _planes(blocks[:, :, 16:80], 2)
    return Weight.int4_min(_rows(codes), _product(blocks, 80, parts & 15), _product(blocks, 82, -_signed(parts >> 4)))


def q3_k(raw: Array) -> Weight:
    """value = d * scale * (code - 4) for each 16, codes 0..7. raw  # uint8 [rows, superblocks * 110]"""
    blocks = _blocks(raw, 110)
    codes = _planes(blocks[:, :, 32:96], 2) | _planes(blocks[:, :, :32], 1) << 2
    low, high = blocks[:, :, 96:104], _planes(blocks[:, :, 104:108], 2, 4)
    scales = _signed(np.concatenate([low & 15, low >> 4], axis=2) | high << 4) - np.int8(32)
    return Weight.int4(_rows(codes + np.uint8(4)), _product(blocks, 108, scales))


def q4_k(raw: Array) -> Weight:
    """value = d * scale * code - dmin * minimum for each 32, codes 0..15. raw  # uint8 [rows, superblocks * 144]"""
    blocks = _blocks(raw, 144)
    scales, minima = _six_bits(blocks[:, :, 4:16])
    codes = nibbles(blocks[:, :, 16:].reshape(len(raw), -1, 32))
    return Weight.int4_min(codes, _product(blocks, 0, scales), _product(blocks, 2, -_signed(minima)))


def q5_k(raw: Array) -> Weight:
    """value = d * scale * code - dmin * minimum for each 32, codes 0..31. raw  # uint8 [rows, superblocks * 176]"""
    blocks = _blocks(raw, 176)
    scales, minima = _six_bits(blocks[:, :, 4:16])
    codes = nibbles(blocks[:, :, 48:].reshape(len(raw), -1, 32)) | _rows(_planes(blocks[:, :, 16:48], 1)) << 4
    return Weight.int8_min(_signed(codes), _product(blocks, 0, scales), _product(blocks, 2, -_signed(minima)))


def q6_k(raw: Array) -> Weight:
    """value = d * scale * (code - 32) for each 16, codes 0..63. raw  # uint8 [rows, superblocks * 210]"""
    blocks = _blocks(raw, 210)
    low = nibbles(blocks[:, :, :128].reshape(len(raw), -1, 64))
    codes = low | _rows(_planes(blocks[:, :, 128:192], 2)) << 4
    return Weight.int8(_signed(codes) - np.int8(32), _product(blocks, 208, _signed(blocks[:, :, 192:208])))


def iq4_xs(raw: Array) -> Weight:
    """value = d * scale * IQ4[code] for each 32. raw  # uint8 [rows, superblocks * 136]"""
    blocks = _blocks(raw, 136)
    low = nibbles(blocks[:, :, 4:8].reshape(len(raw), -1, 1)).reshape(*blocks.shape[:2], 8)
    scales = _signed(low | _planes(blocks[:, :, 2:4], 2, 1) << 4) - np.int8(32)
    return Weight.int4_table(nibbles(blocks[:, :, 8:].reshape(len(raw), -1, 16)), _product(blocks, 0, scales), IQ4)


def _blocks(raw: Array, size: int) -> Bytes:
    """Superblocks of each row. [rows, superblocks, size]"""
    return np.asarray(raw, np.uint8).reshape(raw.shape[0], -1, size)


def _rows(codes: Array) -> Bytes:
    """Codes of all superblocks of a row in a line. [rows, values]"""
    return np.asarray(codes, np.uint8).reshape(codes.shape[0], -1)


def _signed(codes: Array) -> npt.NDArray[np.int8]:
    """Bytes as signed numbers."""
    return np.ascontiguousarray(codes, np.uint8).view(np.int8)


def _planes(packed: Bytes, bits: int, width: int = 32) -> Bytes:
    """The lowest `bits` of `width` bytes, then the next of the same bytes, up to the highest; then the next bytes.

    packed  # [rows, superblocks, n]; result  # [rows, superblocks, n * 8 / bits]
    """
    runs = packed.reshape(*packed.shape[:2], -1, 1, width)
    parts = runs >> np.arange(0, 8, bits, dtype=np.uint8)[:, None] & np.uint8((1 << bits) - 1)
    return np.asarray(parts, np.uint8).reshape(*packed.shape[:2], -1)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minima of Q4_K and Q5_K. packed  # [rows, superblocks, 12]; results  # [rows, superblocks, 8]"""
    scales, minima, both = packed[:, :, :4], packed[:, :, 4:8], packed[:, :, 8:]
    return (
        np.concatenate([scales & 63, both & 15 | scales >> 6 << 4], axis=2),
        np.concatenate([minima & 63, both >> 4 | minima >> 6 << 4], axis=2),
    )


def _product(blocks: Bytes, at: int, parts: Array) -> npt.NDArray[np.float16]:
    """The float16 at byte `at` of every superblock times its integers. parts  # [rows, superblocks, n]"""
    wide = halves(blocks, at).astype(np.float32)[:, :, None] * parts.astype(np.float32)
    return half(wide.reshape(wide.shape[0], -1))
