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
    W8M    as W8 with             scale[32], minimum[32] float16; value = scale * code + minimum, code -128..127
    W4L    once for a panel:      table[16] of codes + 128, four times; then as W4, value = scale * table[code]
    F8     for each group of G:   scale[32] float32; for k, k+1: 64 bytes, byte 32(k % 2) + 2(c % 16) + c / 16: the bits
                                  seeeemmm of E4M3, which as float16, s0eeeemmm0000000, are 2^-8 of what they stand
                                  for; value = scale * float16, so scale is 2^8 of what multiplies E4M3
    F4     once for a panel:      table[16] float32; for each group scale[32] float32, and codes as W4;
                                  value = scale * table[code]
    W16    for each group of G:   scale[32] float32; for k, k+1: 64 int16, element 2c + (k % 2) = code, -4095..4095

Groups are multiples of 32 inputs, or, of W8, W4, W4M and F4, 16; of W16 they are 128 at most, so that sums of products
of codes fit 32 bits. F8 reads its inputs as bfloat16 and F4 as float32, W16 as int16 codes of the same size in groups
of its own; the others that have codes read them as int8 in groups of their own, two of 16 one of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

PANEL = 32  # outputs in a panel
WORD_BITS = 13  # of int16 codes
WORD = 4095  # the largest of them
WORDS = 128  # most inputs that share a scale: 128 * WORD^2 < 2^31
FORMS = 2  # to be raised whenever the bytes of any form change, or how they are packed: kept weights are packed anew

Array = npt.NDArray[np.generic]


class Layout(IntEnum):
    """Packed forms; the numbers are those of csrc/octavo.h."""

    F32 = 0
    BF16 = 1
    W8 = 2
    W4 = 3
    W4M = 4
    W8M = 5
    W4L = 6
    F8 = 7
    F4 = 8
    W16 = 9


QUANTIZED = (Layout.W8, Layout.W4, Layout.W4M, Layout.W8M, Layout.W4L)
HALVES = (Layout.W8, Layout.W4, Layout.W4M)  # may have groups of 16, half of a group of int8 inputs
MINIMA = (Layout.W4M, Layout.W8M)
BYTES = (Layout.W8, Layout.W8M, Layout.F8)  # a code takes a byte
SCALED = (Layout.F8, Layout.F4, Layout.W16)  # by float32
FLOATS = (Layout.F8, Layout.F4)  # codes of floats, that read plain inputs
CODED = (*QUANTIZED, *FLOATS, Layout.W16)  # codes in groups that share a scale
TABLED = (Layout.W4L, Layout.F4)  # a table of 64 bytes is before a panel's groups


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
        case _:
            codes = group * (64 if layout is Layout.W16 else 32 if layout in BYTES else 16)
            return _table_bytes(layout) + cols // group * (_head_bytes(layout) + codes)


def _table_bytes(layout: Layout) -> int:
    """Bytes before the groups of a panel."""
    return 64 if layout in TABLED else 0


def _head_bytes(layout: Layout) -> int:
    """Bytes before the codes of a group."""
    return 128 if layout in MINIMA or layout in SCALED else 64


def read_as(layout: Layout, group: int) -> tuple[int, int]:
    """Bits, and inputs that share a scale (0: none), of the form in which a weight reads its inputs."""
    if layout in QUANTIZED:
        return 8, max(group, 32)
    if layout is Layout.W16:
        return WORD_BITS, group
    return (16 if layout in (Layout.BF16, Layout.F8) else 32), 0


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A packed matrix. `data` is uint8, on a cache line; `group` counts the inputs that share a scale (0: none).

    order: int32 for each column, which of the inputs it multiplies; none: they lie in order.
    """

    layout: Layout
    rows: int
    cols: int
    group: int
    data: npt.NDArray[np.uint8]
    order: bytes = b""

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
        rows, cols, group = _grouped(codes, scale, Layout.W8)
        return Weight(Layout.W8, rows, cols, group, _joined(_head(scale), _bytes(codes, group)))

    @staticmethod
    def int8_min(
        codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16], minimum: npt.NDArray[np.float16]
    ) -> Weight:
        """value = scale * code + minimum. codes  # [rows, cols]; scale, minimum  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale, Layout.W8M)
        return Weight(Layout.W8M, rows, cols, group, _joined(_head(scale), _head(minimum), _bytes(codes, group)))

    @staticmethod
    def int4(codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16]) -> Weight:
        """value = scale * (code - 8), codes 0..15. codes  # [rows, cols]; scale  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale, Layout.W4)
        return Weight(Layout.W4, rows, cols, group, _joined(_head(scale), _nibbles(codes, group)))

    @staticmethod
    def int4_min(
        codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16], minimum: npt.NDArray[np.float16]
    ) -> Weight:
        """value = scale * code + minimum, codes 0..15. codes  # [rows, cols]; scale, minimum  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale, Layout.W4M)
        return Weight(Layout.W4M, rows, cols, group, _joined(_head(scale), _head(minimum), _nibbles(codes, group)))

    @staticmethod
    def int4_table(codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float16], table: npt.NDArray[np.int8]) -> Weight:
        """value = scale * table[code]. codes  # [rows, cols], 0..15; scale  # [rows, cols / group]; table  # [16]"""
        rows, cols, group = _grouped(codes, scale, Layout.W4L)
        body = np.concatenate([_head(scale), _nibbles(codes, group)], axis=2)
        body = body.reshape(len(body), -1)
        once = np.tile(np.asarray(table, np.int8).view(np.uint8) ^ 0x80, (len(body), 4))
        return Weight(Layout.W4L, rows, cols, group, _joined(once, body))

    @staticmethod
    def float8(codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32]) -> Weight:
        """value = scale * E4M3. codes  # [rows, cols], the bits of E4M3 numbers; scale  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale, Layout.F8)
        head = _head(np.asarray(scale * np.float32(256), np.float32))
        return Weight(Layout.F8, rows, cols, group, _joined(head, _pairs(codes, group)))

    @staticmethod
    def float4(codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], table: npt.NDArray[np.float32]) -> Weight:
        """value = scale * table[code]. codes  # [rows, cols], 0..15; scale  # [rows, cols / group]; table  # [16]"""
        rows, cols, group = _grouped(codes, scale, Layout.F4)
        body = np.concatenate([_head(np.asarray(scale, np.float32)), _nibbles(codes, group)], axis=2)
        body = body.reshape(len(body), -1)
        once = np.tile(np.asarray(table, np.float32).view(np.uint8), (len(body), 1))
        return Weight(Layout.F4, rows, cols, group, _joined(once, body))

    @staticmethod
    def int16(codes: npt.NDArray[np.int16], scale: npt.NDArray[np.float32]) -> Weight:
        """value = scale * code, codes -4095..4095. codes  # [rows, cols]; scale  # [rows, cols / group]"""
        rows, cols, group = _grouped(codes, scale, Layout.W16)
        pairs = _pad_rows(np.asarray(codes, np.int16)).reshape(-1, PANEL, cols // group, group // 2, 2)
        body = np.ascontiguousarray(pairs.transpose(0, 2, 3, 1, 4)).view(np.uint8)
        body = body.reshape(-1, cols // group, group * 64)
        return Weight(Layout.W16, rows, cols, group, _joined(_head(np.asarray(scale, np.float32)), body))

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The matrix the codes stand for, in float32, its columns as they are packed. [rows, cols]"""
        if self.layout is Layout.F32:
            full = self.data.view(np.float32).reshape(-1, self.cols, PANEL).transpose(0, 2, 1)
            return np.ascontiguousarray(full).reshape(-1, self.cols)[: self.rows]
        if self.layout is Layout.BF16:
            even = (self.cols + 1) // 2
            bits = self.data.view(np.uint16).reshape(-1, even, PANEL, 2).transpose(0, 2, 1, 3)
            return from_bfloat16(np.ascontiguousarray(bits)).reshape(-1, even * 2)[: self.rows, : self.cols]
        first, head = _table_bytes(self.layout), _head_bytes(self.layout)
        packed = self.data.reshape(self.panels, -1)[:, first:].reshape(self.panels, self.cols // self.group, -1)
        scale = packed[:, :, : 128 if self.layout in SCALED else 64]
        values = self._codes(packed[:, :, head:]) * _tail(scale)
        if self.layout in MINIMA:
            values += _tail(packed[:, :, 64:head])
        return np.asarray(values.reshape(-1, self.cols)[: self.rows], np.float32)

    def regrouped(self, group: int) -> Weight:
        """The same values, the scale of every group repeated for smaller groups, whose size divides the group's."""
        assert self.layout in QUANTIZED and self.group % group == 0 and group % 32 == 0
        first, head = _table_bytes(self.layout), _head_bytes(self.layout)
        panels, times = self.data.reshape(self.panels, -1), self.group // group
        groups = panels[:, first:].reshape(self.panels, self.cols // self.group, -1)
        heads = np.repeat(groups[:, :, :head], times, axis=1)
        codes = groups[:, :, head:].reshape(*heads.shape[:2], -1)
        body = np.concatenate([heads, codes], axis=2).reshape(self.panels, -1)
        return Weight(self.layout, self.rows, self.cols, group, _joined(panels[:, :first], body))

    def _codes(self, body: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What scales multiply. body  # [panels, groups, bytes]; result  # [panels * 32, groups, group]"""
        panels, groups = body.shape[:2]
        if self.layout is Layout.F8:
            pairs = body.reshape(panels, groups, self.group // 2, 2, 16, 2).transpose(0, 5, 4, 1, 2, 3)
            return _eights(np.ascontiguousarray(pairs).reshape(-1, groups, self.group))
        if self.layout is Layout.W16:
            words = np.ascontiguousarray(body).view(np.int16).reshape(panels, groups, self.group // 2, PANEL, 2)
            return np.asarray(words.transpose(0, 3, 1, 2, 4).reshape(-1, groups, self.group), np.float32)
        if self.layout in BYTES:
            quads = (body ^ 0x80).view(np.int8).reshape(panels, groups, self.group // 4, PANEL, 4)
            return np.asarray(quads.transpose(0, 3, 1, 2, 4).reshape(-1, groups, self.group), np.float32)
        pairs = body.reshape(panels, groups, self.group // 4, 1, 16, 4)
        both = np.concatenate([pairs & 15, pairs >> 4], axis=3)  # [panel, g, q, half, c, j]
        codes = both.transpose(0, 3, 4, 1, 2, 5).reshape(-1, groups, self.group)
        if self.layout is Layout.W4L:
            table = (self.data[:16] ^ 0x80).view(np.int8).astype(np.float32)
            return np.asarray(table[codes], np.float32)
        if self.layout is Layout.F4:
            return np.asarray(self.data[:64].view(np.float32)[codes], np.float32)
        return np.asarray(codes - np.float32(8 if self.layout is Layout.W4 else 0), np.float32)


def fits(layout: Layout, group: int) -> bool:
    """Whether groups of so many inputs may share a scale."""
    if layout is Layout.W16 and group > WORDS:
        return False
    return (group > 0 and group % 32 == 0) or (group == 16 and layout in (*HALVES, Layout.F4))


def _grouped(codes: Array, scale: Array, layout: Layout) -> tuple[int, int, int]:
    """Check codes against scales; give rows, cols and group."""
    rows, cols = codes.shape
    groups = scale.shape[1]
    group = cols // groups if groups else 0
    if scale.shape[0] != rows or group * groups != cols or not fits(layout, group) or cols % 32:
        sizes = "a multiple of 32, or 16" if fits(layout, 16) else "a multiple of 32"
        sizes += f" up to {WORDS}" if layout is Layout.W16 else ""
        raise ValueError(f"scales {scale.shape} do not divide codes {codes.shape} into groups of {sizes}")
    return rows, cols, group


def _pad_rows(matrix: Array) -> Array:
    """Rows up to a multiple of 32, with zeros."""
    missing = -matrix.shape[0] % PANEL
    return np.pad(matrix, ((0, missing), (0, 0))) if missing else matrix


def _head(scale: Array) -> npt.NDArray[np.uint8]:
    """Scales as the bytes before each group's codes: float32 as it is, else as float16. [panels, groups, bytes]"""
    padded = _pad_rows(scale if scale.dtype == np.float32 else np.asarray(scale, np.float16))
    return np.ascontiguousarray(padded.reshape(-1, PANEL, scale.shape[1]).transpose(0, 2, 1)).view(np.uint8)


def _tail(head: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Inverse of `_head`. [panels * 32, groups, 1]"""
    kind = np.float16 if head.shape[2] == 2 * PANEL else np.float32
    scale = np.ascontiguousarray(head).view(kind)  # [panel, g, c]
    return np.asarray(scale.transpose(0, 2, 1).reshape(-1, head.shape[1], 1), np.float32)


def _eights(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """E4M3 codes as float16 bits, 2^-8 of what they stand for."""
    wide = codes.astype(np.uint16)
    return np.asarray(((wide & 0x80) << 8 | (wide & 0x7F) << 7).view(np.float16), np.float32)


def _pairs(codes: npt.NDArray[np.uint8], group: int) -> npt.NDArray[np.uint8]:
    """Two inputs of 32 outputs in 64 bytes, c and c + 16 side by side. [panels, groups, group * 32]"""
    cols = codes.shape[1]
    padded: npt.NDArray[np.uint8] = np.asarray(_pad_rows(codes), np.uint8)
    sides = padded.reshape(-1, 2, 16, cols // group, group // 2, 2)  # [panel, side, c, g, pair, j]
    return np.ascontiguousarray(sides.transpose(0, 3, 4, 5, 2, 1)).reshape(-1, cols // group, group * 32)


def _bytes(codes: npt.NDArray[np.int8], group: int) -> npt.NDArray[np.uint8]:
    """An output in a byte, + 128. [panels, groups, group * 32]"""
    cols = codes.shape[1]
    quads = (_pad_rows(codes).view(np.uint8) ^ 0x80).reshape(-1, PANEL, cols // group, group // 4, 4)
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1, 4)).reshape(-1, cols // group, group * 32)


def _nibbles(codes: npt.NDArray[np.uint8], group: int) -> npt.NDArray[np.uint8]:
    """Two outputs in a byte. [panels, groups, group * 16]"""
    cols = codes.shape[1]
    padded: npt.NDArray[np.uint8] = np.asarray(_pad_rows(codes), np.uint8)
    quads = padded.reshape(-1, 2, 16, cols // group, group // 4, 4)
    bytes_ = quads[:, 0] | (quads[:, 1] << 4)  # [panel, c, g, q, j]
    return np.ascontiguousarray(bytes_.transpose(0, 2, 3, 1, 4)).reshape(-1, cols // group, group * 16)


def _joined(*parts: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What lies behind each other in every group, or panel, as aligned bytes."""
    return _freeze(np.concatenate(parts, axis=-1))


def _freeze(packed: Array) -> npt.NDArray[np.uint8]:
    """Copy into aligned, read-only bytes."""
    out = aligned(packed.nbytes)
    out.view(packed.dtype).reshape(packed.shape)[...] = packed
    out.flags.writeable = False
    return out
