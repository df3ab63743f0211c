"""Packed weights: what goes in comes out, whatever the shape; and the bytes lie as the docstring says."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.kernels.weight import PANEL, Layout, Weight, aligned, from_bfloat16, panel_bytes, to_bfloat16

SHAPES = [(1, 32), (31, 64), (32, 96), (33, 192), (70, 320)]


def random_parts(rows: int, cols: int, group: int, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, minima."""
    rng = np.random.default_rng(rows * cols + group)
    low, high = (-128, 128) if layout is Layout.W8 else (0, 16)
    codes = rng.integers(low, high, (rows, cols)).astype(np.int8 if layout is Layout.W8 else np.uint8)
    scale, minimum = rng.normal(0, 1, (2, rows, cols // group)).astype(np.float16)
    scale[0, 0] = 6e-8  # the smallest float16
    return codes, scale, minimum


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
@pytest.mark.parametrize("groups", ["32", "all"])
@pytest.mark.parametrize("layout", [Layout.W8, Layout.W4, Layout.W4M])
def test_integers_round_trip(layout: Layout, rows: int, cols: int, groups: str) -> None:
    group = 32 if groups == "32" else cols
    codes, scale, minimum = random_parts(rows, cols, group, layout)
    wide = np.repeat(scale.astype(np.float32), group, axis=1)
    if layout is Layout.W8:
        weight, want = Weight.int8(codes, scale), codes * wide
    elif layout is Layout.W4:
        weight, want = Weight.int4(codes, scale), (codes.astype(np.float32) - 8) * wide
    else:
        weight = Weight.int4_min(codes, scale, minimum)
        want = codes * wide + np.repeat(minimum.astype(np.float32), group, axis=1)
    assert (weight.layout, weight.rows, weight.cols, weight.group) == (layout, rows, cols, group)
    assert np.array_equal(weight.dequantize(), want)
    assert weight.nbytes == weight.panels * panel_bytes(layout, cols, group)
    assert weight.panels == -(-rows // PANEL)


@pytest.mark.parametrize(("rows", "cols"), [*SHAPES, (1, 1), (5, 33), (64, 7)])
def test_floats_round_trip(rows: int, cols: int) -> None:
    values = np.random.default_rng(cols).normal(0, 1, (rows, cols)).astype(np.float32)
    full = Weight.float32(values)
    assert np.array_equal(full.dequantize(), values)
    assert full.nbytes == full.panels * panel_bytes(Layout.F32, cols, 0)
    half = Weight.bfloat16(to_bfloat16(values))
    assert np.array_equal(half.dequantize(), from_bfloat16(to_bfloat16(values)))
    assert half.nbytes == half.panels * panel_bytes(Layout.BF16, cols, 0)


@pytest.mark.parametrize("layout", [Layout.W8, Layout.W4, Layout.W4M])
def test_bytes_lie_as_described(layout: Layout) -> None:
    codes, scale, minimum = random_parts(40, 128, 64, layout)
    weight = {
        Layout.W8: lambda: Weight.int8(codes, scale),
        Layout.W4: lambda: Weight.int4(codes, scale),
        Layout.W4M: lambda: Weight.int4_min(codes, scale, minimum),
    }[layout]()
    size = panel_bytes(layout, 128, 64)
    group_size = size // 2
    body = 128 if layout is Layout.W4M else 64
    for row, k in ((0, 0), (3, 5), (17, 66), (31, 127), (32, 0), (39, 71)):
        at = row // 32 * size + k // 64 * group_size
        c, quad = row % 32, k % 64 // 4
        assert weight.data[at + 2 * c : at + 2 * c + 2].view(np.float16)[0] == scale[row, k // 64]
        if layout is Layout.W8:
            assert int(weight.data[at + body + quad * 128 + 4 * c + k % 4]) - 128 == codes[row, k]
            continue
        both = int(weight.data[at + body + quad * 64 + 4 * (c % 16) + k % 4])
        assert (both & 15 if c < 16 else both >> 4) == codes[row, k]
        if layout is Layout.W4M:
            assert weight.data[at + 64 + 2 * c : at + 66 + 2 * c].view(np.float16)[0] == minimum[row, k // 64]


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


@pytest.mark.parametrize("shape", [(4, 0), (4, 3), (5, 2), (4, 4)])
def test_scales_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"do not divide codes \(4, 64\)"):
        Weight.int8(np.zeros((4, 64), np.int8), np.zeros(shape, np.float16))
    with pytest.raises(ValueError, match="groups of a multiple of 32"):
        Weight.int4(np.zeros((4, 64), np.uint8), np.zeros(shape, np.float16))


def test_bfloat16_rounds_to_even_and_keeps_what_is_special() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, np.inf, -np.inf, 3.4e38, -0.0, 1e-45])
    want = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x7F80, 0x8000, 0]
    assert to_bfloat16(values.astype(np.float32)).tolist() == want
    nans = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(nans))).all()
