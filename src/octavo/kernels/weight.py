"""Packed weights: the few forms every checkpoint format becomes at load.

A weight is a matrix `[rows, cols]` that maps `cols` inputs to `rows` outputs. It is cut into panels of 32 outputs; a
panel holds its inputs interleaved as the dot instructions take them, with the group scales inline, so a thread reads
one sequential stream. Rows are padded to 32 with zeros. All forms of one panel, for inputs k and outputs c = 0..31:

    F32    for k:                 32 float32, c in order
    BF16   for k, k+1:            64 bfloat16, element 2c + (k % 2)
    W8     for each group of G:   scale[32] float16; for each quad k..k+3: 128 bytes, byte 4c + (k % 4) = code + 128
    W4     for each group of G:   scale[32] float16; for each quad: 64 bytes, byte 4(c % 16) + (k % 4),
                                  low nibble c < 16, high nibble c >= 16; code 0..15, value = scale * (code - 8)
    W4M    as W4 with             scale[32], minimum[32] float16; value = scale * code + minimum
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

PANEL = 32  # outputs in a panel
FORMS = 1  # to be raised whenever the bytes of any form change, or how they are packed: kept weights are packed anew

Array = npt.NDArray[np.generic]


class Layout(IntEnum):
    """Packed forms; the numbers are those of csrc/table.h."""

    F32 = 0
    BF16 = 1
    W8 = 2
    W4 = 3
    W4M = 4


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start on a cache line (64 bytes)."""
    raw = np.zeros(size + 63, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def panel_bytes(layout: Layout, cols: int, group: int) -> int:
    """Size of one panel of 32 outputs."""
    match layout:
        case Layout.F32:
            return cols * PANEL * 4
        case Layout.BF16:
            return (cols + 1) // 2 * 2 * PANEL * 2
        case Layout.W8:
            return cols // group * (64 + group * 32)
        case Layout.W4:
            return cols // group * (64 + group * 16)
        case Layout.W4M:
            return cols // group * (128 + group * 16)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A packed matrix. `data` is uint8, on a cache line; `group` counts the inputs that share a scale (0: none)."""

    layout: Layout
    rows: int
    cols: int
    group: int
    data: npt.NDArray[np.uint8]

    @property
    def panels(self) -> int:
        """Panels of 32 outputs, the last one padded."""
        return -(-self.rows // PANEL)

    @property
    def nbytes(self) -> int:
        """Packed size."""
        return int(self.data.nbytes)

    @staticmethod
    def float32(values: npt.NDArray[np.float32]) -> Weight:
        """Keep full precision. values  # [rows, cols]"""
        rows, cols = values.shape
        padded = _pad_rows(np.ascontiguousarray(values, np.float32))
        tiles = padded.reshape(-1, PANEL, cols).transpose(0, 2, 1)
        return Weight(Layout.F32, rows, cols, 0, _freeze(tiles))

    @staticmethod
    def bfloat16(bits: npt.NDArray[np.uint16]) -> Weight:
        """From bfloat16 bits. bits  # uint16 [rows, cols]"""
        rows, cols = bits.shape
        padded = _pad_rows(bits)
        if cols % 2:
            padded = np.pad(padded, ((0, 0), (0, 1)))
        tiles = padded.reshape(-1, PANEL, (cols + 1) // 2, 2).transpose(0, 2, 1, 3)
        return Weight(Layout.BF16, rows, cols, 0, _freeze(tiles))

    @staticmethod
    def int8(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]) -> Weight:
        """Symmetric groups. codes  # [rows, cols]; scale  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale)
        biased = (_pad_rows(codes).view(np.uint8) ^ 0x80).reshape(-1, PANEL, cols // group, group // 4, 4)
        body = biased.transpose(0, 2, 3, 1, 4).reshape(-1, cols // group, group * 32)
        return Weight(Layout.W8, rows, cols, group, _freeze(np.concatenate([_head(scale), body], axis=2)))

    @staticmethod
    def int4(codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> Weight:
        """value = scale * (code - 8), codes 0..15. codes  # [rows, cols]; scale  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale)
        body = _nibbles(codes, group)
        return Weight(Layout.W4, rows, cols, group, _freeze(np.concatenate([_head(scale), body], axis=2)))

    @staticmethod
    def int4_min(
        codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16], minimum: npt.NDArray[np.float16]
    ) -> Weight:
        """value = scale * code + minimum, codes 0..15. codes  # [rows, cols]; scale, minimum  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale)
        packed = np.concatenate([_head(scale), _head(minimum), _nibbles(codes, group)], axis=2)
        return Weight(Layout.W4M, rows, cols, group, _freeze(packed))

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The matrix the codes stand for, in float32. [rows, cols]"""
        if self.layout is Layout.F32:
            full = self.data.view(np.float32).reshape(-1, self.cols, PANEL).transpose(0, 2, 1)
            return np.ascontiguousarray(full).reshape(-1, self.cols)[: self.rows]
        if self.layout is Layout.BF16:
            even = (self.cols + 1) // 2
            bits = self.data.view(np.uint16).reshape(-1, even, PANEL, 2).transpose(0, 2, 1, 3)
            return from_bfloat16(np.ascontiguousarray(bits)).reshape(-1, even * 2)[: self.rows, : self.cols]
        groups, group = self.cols // self.group, self.group
        packed = self.data.reshape(self.panels, groups, -1)
        scale = _tail(packed, 0)
        if self.layout is Layout.W8:
            body = packed[:, :, 64:].reshape(self.panels, groups, group // 4, PANEL, 4)
            codes = (body ^ 0x80).view(np.int8).astype(np.float32)
            values = codes.transpose(0, 3, 1, 2, 4).reshape(-1, groups, group) * scale
        else:
            start = 128 if self.layout is Layout.W4M else 64
            body = packed[:, :, start:].reshape(self.panels, groups, group // 4, 1, 16, 4)
            both = np.concatenate([body & 15, body >> 4], axis=3).astype(np.float32)  # [panel, g, q, half, c, j]
            codes = both.transpose(0, 3, 4, 1, 2, 5).reshape(-1, groups, group)
            values = codes * scale + _tail(packed, 64) if start == 128 else (codes - 8) * scale
        return np.asarray(values.reshape(-1, self.cols)[: self.rows], np.float32)


def _grouped(codes: Array, scale: Array) -> tuple[int, int, int]:
    """Check codes against scales; give rows, cols and group."""
    rows, cols = codes.shape
    groups = scale.shape[1]
    group = cols // groups if groups else 0
    if scale.shape[0] != rows or group * groups != cols or group == 0 or group % 32:
        raise ValueError(f"scales {scale.shape} do not divide codes {codes.shape} into groups of a multiple of 32")
    return rows, cols, group


def _pad_rows(matrix: Array) -> Array:
    """Rows up to a multiple of 32, with zeros."""
    missing = -matrix.shape[0] % PANEL
    return np.pad(matrix, ((0, missing), (0, 0))) if missing else matrix


def _head(scale: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
    """Scales as the bytes before each group's codes. [panels, groups, 64]"""
    padded = _pad_rows(np.asarray(scale, np.float16))
    return np.ascontiguousarray(padded.reshape(-1, PANEL, scale.shape[1]).transpose(0, 2, 1)).view(np.uint8)


def _tail(packed: npt.NDArray[np.uint8], start: int) -> npt.NDArray[np.float32]:
    """Inverse of `_head`. [panels * 32, groups, 1]"""
    half = np.ascontiguousarray(packed[:, :, start : start + 64]).view(np.float16)  # [panel, g, c]
    return np.asarray(half.transpose(0, 2, 1).reshape(-1, packed.shape[1], 1), np.float32)


def _nibbles(codes: npt.NDArray[np.uint8], group: int) -> npt.NDArray[np.uint8]:
    """Two outputs in a byte. [panels, groups, group * 16]"""
    cols = codes.shape[1]
    padded: npt.NDArray[np.uint8] = np.asarray(_pad_rows(codes), np.uint8)
    quads = padded.reshape(-1, 2, 16, cols // group, group // 4, 4)
    bytes_ = quads[:, 0] | (quads[:, 1] << 4)  # [panel, c, g, q, j]
    return np.ascontiguousarray(bytes_.transpose(0, 2, 3, 1, 4)).reshape(-1, cols // group, group * 16)


def _freeze(packed: Array) -> npt.NDArray[np.uint8]:
    """Copy into aligned, read-only bytes."""
    out = aligned(packed.nbytes)
    out.view(packed.dtype).reshape(packed.shape)[...] = packed
    out.flags.writeable = False
    return out
