"""Packed weights: what goes in comes out, whatever the shape; and the bytes lie as the docstring says."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import of_codes

from octavo.bench.cases import NUMBERS, TABLE
from octavo.kernels.weight import (
    BYTES,
    HALVES,
    MINIMA,
    PANEL,
    QUANTIZED,
    Layout,
    Weight,
    aligned,
    from_bfloat16,
    panel_bytes,
    read_as,
    to_bfloat16,
)
from octavo.quant.coded import TABLES

SHAPES = [(1, 32), (31, 64), (32, 96), (33, 192), (70, 320)]


def random_parts(rows: int, cols: int, group: int, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, minima."""
    rng = np.random.default_rng(rows * cols + group)
    low, high = (-128, 128) if layout in BYTES else (0, 16)
    codes = rng.integers(low, high, (rows, cols)).astype(np.int8 if layout in BYTES else np.uint8)
    scale, minimum = rng.normal(0, 1, (2, rows, cols // group)).astype(np.float16)
    scale[0, 0] = 6e-8  # the smallest float16
    return codes, scale, minimum


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("groups", [16, 32, 0])
@pytest.mark.parametrize("layout", QUANTIZED)
def test_integers_round_trip(layout: Layout, rows: int, cols: int, groups: int) -> None:
    group = groups or cols
    codes, scale, minimum = random_parts(rows, cols, group, layout)
    if group == 16 and layout not in HALVES:
        with pytest.raises(ValueError, match=r"groups of a multiple of 32$"):
            of_codes(layout, codes, scale, minimum)
        return
    weight = of_codes(layout, codes, scale, minimum)
    plain = TABLE[codes] if layout is Layout.W4L else codes - np.int16(8 if layout is Layout.W4 else 0)
    want = plain.astype(np.float32) * np.repeat(scale.astype(np.float32), group, axis=1)
    if layout in MINIMA:
        want += np.repeat(minimum.astype(np.float32), group, axis=1)
    assert (weight.layout, weight.rows, weight.cols, weight.group) == (layout, rows, cols, group)
    assert np.array_equal(weight.dequantize(), want)
    assert weight.nbytes == weight.panels * panel_bytes(layout, cols, group)
    assert weight.panels == -(-rows // PANEL)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("groups", [16, 32, 0])
def test_codes_of_floats_round_trip(rows: int, cols: int, groups: int) -> None:
    rng = np.random.default_rng(rows * cols)
    group = groups or cols
    scale = rng.normal(0, 1, (rows, cols // group)).astype(np.float32)
    wide = np.repeat(scale, group, axis=1)
    codes = rng.choice(np.array([code for code in range(256) if code & 127 != 127], np.uint8), (rows, cols))
    four = Weight.float4(codes % 16, scale, NUMBERS)
    assert np.array_equal(four.dequantize(), wide * NUMBERS[codes % 16])
    assert four.nbytes == four.panels * panel_bytes(Layout.F4, cols, group)
    if group == 16:
        with pytest.raises(ValueError, match=r"groups of a multiple of 32$"):
            Weight.float8(codes, scale)
        return
    eight = Weight.float8(codes, scale)
    assert np.array_equal(eight.dequantize(), wide * TABLES["E4M3"][codes])
    assert eight.nbytes == eight.panels * panel_bytes(Layout.F8, cols, group)
    with pytest.raises(ValueError, match="do not divide codes"):
        Weight.float8(codes, np.ones((rows, 2 * cols), np.float32))


def test_int16_codes_round_trip_and_lie_as_described() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(-4095, 4096, (40, 192)).astype(np.int16)
    scale = rng.normal(0, 1, (40, 3)).astype(np.float32)
    weight = Weight.int16(codes, scale)
    assert np.array_equal(weight.dequantize(), np.repeat(scale, 64, axis=1) * codes)
    size = panel_bytes(Layout.W16, 192, 64)
    assert weight.nbytes == 2 * size
    for row, k in ((0, 0), (3, 5), (17, 66), (31, 191), (32, 0), (39, 71)):
        at = row // 32 * size + k // 64 * (128 + 64 * 64)
        assert weight.data[at + 4 * (row % 32) : at + 4 * (row % 32) + 4].view(np.float32)[0] == scale[row, k // 64]
        at += 128 + k % 64 // 2 * 128 + 4 * (row % 32) + k % 2 * 2
        assert weight.data[at : at + 2].view(np.int16)[0] == codes[row, k]
    with pytest.raises(ValueError, match=r"groups of a multiple of 32 up to 128$"):
        Weight.int16(codes, scale[:, :1])


def test_codes_of_floats_lie_as_described() -> None:
    rng = np.random.default_rng(1)
    codes, scale = rng.integers(0, 127, (40, 128)).astype(np.uint8), rng.normal(0, 1, (40, 2)).astype(np.float32)
    eight, four = Weight.float8(codes, scale).data, Weight.float4(codes % 16, scale, NUMBERS).data
    for row, k in ((0, 0), (3, 5), (17, 66), (31, 127), (32, 0), (39, 71)):
        c, i, group = row % 32, k % 64, k // 64
        at = row // 32 * panel_bytes(Layout.F8, 128, 64) + group * (128 + 64 * 32)
        assert eight[at + 4 * c : at + 4 * c + 4].view(np.float32)[0] == 256 * scale[row, group]
        assert eight[at + 128 + i // 2 * 64 + 32 * (i % 2) + 2 * (c % 16) + c // 16] == codes[row, k]
        at = row // 32 * panel_bytes(Layout.F4, 128, 64)
        assert np.array_equal(four[at : at + 64].view(np.float32), NUMBERS)
        at += 64 + group * (128 + 64 * 16)
        assert four[at + 4 * c : at + 4 * c + 4].view(np.float32)[0] == scale[row, group]
        both = four[at + 128 + i // 4 * 64 + 4 * (c % 16) + i % 4]
        assert (both & 15 if c < 16 else both >> 4) == codes[row, k] % 16


@pytest.mark.parametrize(("rows", "cols"), [*SHAPES, (1, 1), (5, 33), (64, 7)])
def test_floats_round_trip(rows: int, cols: int) -> None:
    values = np.random.default_rng(cols).normal(0, 1, (rows, cols)).astype(np.float32)
    full = Weight.float32(values)
    assert np.array_equal(full.dequantize(), values)
    assert full.nbytes == full.panels * panel_bytes(Layout.F32, cols, 0)
    half = Weight.bfloat16(to_bfloat16(values))
    assert np.array_equal(half.dequantize(), from_bfloat16(to_bfloat16(values)))
    assert half.nbytes == half.panels * panel_bytes(Layout.BF16, cols, 0)


@pytest.mark.parametrize(
    ("layout", "group"), [*((layout, 64) for layout in QUANTIZED), *((layout, 16) for layout in HALVES)]
)
def test_bytes_lie_as_described(layout: Layout, group: int) -> None:
    codes, scale, minimum = random_parts(40, 128, group, layout)
    weight = of_codes(layout, codes, scale, minimum)
    size, first = panel_bytes(layout, 128, group), 64 if layout is Layout.W4L else 0
    group_size = (size - first) // (128 // group)
    body = 128 if layout in MINIMA else 64
    for row, k in ((0, 0), (3, 5), (17, 66), (31, 127), (32, 0), (39, 71)):
        at = row // 32 * size + first + k // group * group_size
        c, quad = row % 32, k % group // 4
        assert weight.data[at + 2 * c : at + 2 * c + 2].view(np.float16)[0] == scale[row, k // group]
        if layout in MINIMA:
            assert weight.data[at + 64 + 2 * c : at + 66 + 2 * c].view(np.float16)[0] == minimum[row, k // group]
        if layout is Layout.W4L:
            table = weight.data[at - at % size : at - at % size + 64].reshape(4, 16).astype(int) - 128
            assert (table == TABLE).all()
        if layout in BYTES:
            assert int(weight.data[at + body + quad * 128 + 4 * c + k % 4]) - 128 == codes[row, k]
        else:
            both = int(weight.data[at + body + quad * 64 + 4 * (c % 16) + k % 4])
            assert (both & 15 if c < 16 else both >> 4) == codes[row, k]


def test_weights_of_one_operation_may_read_one_form_of_input() -> None:
    assert {read_as(layout, group) for layout in HALVES for group in (16, 32)} == {(8, 32)}
    assert {read_as(layout, 64) for layout in QUANTIZED} == {(8, 64)}
    assert (read_as(Layout.F4, 64), read_as(Layout.F8, 64)) == ((32, 0), (16, 0))
    assert read_as(Layout.W16, 64) == (13, 64)
    assert (read_as(Layout.F32, 0), read_as(Layout.BF16, 0)) == ((32, 0), (16, 0))


def test_padding_is_zero_and_memory_aligned_and_frozen() -> None:
    weight = Weight.int8(np.full((3, 32), 5, np.int8), np.ones((3, 1), np.float16))
    padding = weight.data[64:].reshape(8, PANEL, 4)[:, 3:]
    assert (padding == 128).all()
    assert not weight.data[6:64].any()
    assert weight.data.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        weight.data[0] = 1
    for size in (1, 63, 64, 1000):
        assert aligned(size).ctypes.data % 64 == 0
        assert aligned(size).nbytes == size


@pytest.mark.parametrize("shape", [(4, 0), (4, 3), (5, 2), (4, 8)])
def test_scales_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"do not divide codes \(4, 64\)"):
        Weight.int8(np.zeros((4, 64), np.int8), np.zeros(shape, np.float16))
    with pytest.raises(ValueError, match=r"groups of a multiple of 32, or 16$"):
        Weight.int4(np.zeros((4, 64), np.uint8), np.zeros(shape, np.float16))


def test_bfloat16_rounds_to_even_and_keeps_what_is_special() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, np.inf, -np.inf, 3.4e38, -0.0, 1e-45])
    want = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x7F80, 0x8000, 0]
    assert to_bfloat16(values.astype(np.float32)).tolist() == want
    nans = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(nans))).all()
