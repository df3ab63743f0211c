"""Numbers to codes: no group loses more than by plain rounding, and compensation lowers what outputs lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.weight import Layout
from octavo.quant.compensate import compensated, loss
from octavo.quant.compressed_file import coded_shapes, coded_tensors, packed_words
from octavo.quant.format import pack
from octavo.quant.online import online_format
from octavo.quant.rescale import channel_scales
from octavo.quant.search import SHRINKS, Grid, coded, span_of

GRIDS = [
    Grid(bits, group, symmetric, coarse, search=bits == 4)
    for bits in (4, 8)
    for group in (32, 64)
    for symmetric in (True, False)
    for coarse in (False, True)
]


def matrix(seed: int, rows: int = 8, cols: int = 192, spread: float = 0.02) -> np.ndarray:
    """Rows of many sizes, a few of them one-sided, one of zeros."""
    random = np.random.default_rng(seed)
    values = random.standard_t(3, (rows, cols)) * spread * random.lognormal(size=(rows, 1))
    values[0] = 0
    values[1] = np.abs(values[1])
    return values.astype(np.float32)


def rounded_plainly(values: np.ndarray, grid: Grid) -> np.ndarray:
    """The definition of rounding to the nearest code, one group after another."""
    out = np.empty_like(values)
    for row in range(values.shape[0]):
        for at in range(0, values.shape[1], grid.group):
            group = values[row, at : at + grid.group]
            low, high = float(group.min()), float(group.max())
            if grid.symmetric:
                extreme, zero = (low, high)[-low <= high], 2 ** (grid.bits - 1)
                scale = extreme / -zero
            else:
                low, high = min(low, 0.0), max(high, 0.0)
                scale = (high - low) / (2**grid.bits - 1)
            if grid.coarse:
                scale = float((np.array([scale], np.float32).view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)[0])
            scale = float(np.float16(scale))
            if not grid.symmetric:
                zero = int(np.clip(np.rint(-low / scale), 0, 2**grid.bits - 1)) if scale else 0
            codes = np.clip(np.rint(group / scale) + zero, 0, 2**grid.bits - 1) if scale else np.full(len(group), zero)
            out[row, at : at + grid.group] = (codes - zero) * scale
    return out


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_searched_group_loses_no_more_than_a_rounded_one(grid: Grid) -> None:
    for seed in range(5):
        values = matrix(seed)
        found, plain = coded(values, grid).values(), rounded_plainly(values, grid)
        errors = [
            np.square(other - values, dtype=np.float64).reshape(len(values), -1, grid.group).sum(axis=2)
            for other in (found, plain)
        ]
        assert (errors[0] <= errors[1] * (1 + 1e-5) + 1e-20).all()
        assert errors[0].sum() < errors[1].sum() or not grid.search


def test_search_gains_what_it_is_for() -> None:
    """Four bits in groups of 64, normal numbers: a twentieth of the squared error at least."""
    values = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    lost = [np.square(coded(values, Grid(4, 64, search=search)).values() - values).sum() for search in (True, False)]
    assert lost[0] < 0.95 * lost[1]
    assert min(SHRINKS) == pytest.approx(0.7) and max(SHRINKS) == 1 and len(SHRINKS) == 8


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_codes_can_hold_they_hold_exactly(grid: Grid) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, grid.top + 1, (4, 2, grid.group)).astype(np.float32)
    codes[..., 0], codes[..., 1] = 0, grid.top
    zero = grid.middle if grid.symmetric else 5
    values = ((codes - zero) * np.float32(2.0**-7)).reshape(4, -1)
    np.testing.assert_array_equal(coded(values, grid).values(), values)


def test_numbers_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        coded(np.full((1, 32), 1e9, np.float32), Grid(4, 32))


def test_compensation_lowers_what_outputs_lose() -> None:
    random = np.random.default_rng(2)
    mixing = random.standard_normal((128, 128)) * (0.2 + random.random(128))
    inputs = (random.standard_normal((600, 128)) @ mixing).astype(np.float32)
    values, hessian = matrix(3, 32, 128), inputs.T @ inputs
    for symmetric in (True, False):
        grid = Grid(4, 32, symmetric)
        alone, together = coded(values, grid), compensated(values, hessian, grid, 0.01)
        assert loss(together.values() - values, hessian) < 0.7 * loss(alone.values() - values, hessian)
        assert together.codes.shape == values.shape and together.scale.shape == (32, 4)


def test_compensation_without_inputs_is_rounding() -> None:
    """A Hessian of zeros, as of a channel that is never used, couples nothing."""
    values = matrix(4, 8, 64)
    found = compensated(values, np.zeros((64, 64), np.float32), Grid(4, 32), 0.01)
    np.testing.assert_array_equal(found.codes, coded(values, Grid(4, 32)).codes)


def test_inputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="calibration"):
        compensated(matrix(5, 8, 64), np.full((64, 64), np.nan, np.float32), Grid(4, 32), 0.01)


def test_channel_scales_help_where_few_inputs_are_large() -> None:
    random = np.random.default_rng(6)
    inputs = random.standard_normal((400, 128)).astype(np.float32)
    inputs[:, 7] *= 60
    inputs[:, 90] *= 25
    values, hessian, grid = matrix(7, 64, 128), inputs.T @ inputs, Grid(4, 64)
    scales = channel_scales([(values, grid)], hessian)
    assert scales is not None and scales[7] > scales[90] > np.median(scales)
    lost = [loss(coded(values * by, grid).values() / by - values, hessian) for by in (scales, np.ones(128, np.float32))]
    assert lost[0] < 0.8 * lost[1]
    assert channel_scales([(values, grid)], np.zeros_like(hessian)) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([4, 8]), st.integers(0, 2**32 - 1))
def test_words_hold_the_codes_side_by_side(rows: int, cols: int, bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, cols)).astype(np.uint8)
    words = packed_words(codes, bits)
    each = 32 // bits
    assert words.shape == (rows, -(-cols // each))
    for row in range(rows):
        told = sum(int(word) << (32 * at) for at, word in enumerate(words[row]))
        assert told == sum(int(code) << (bits * at) for at, code in enumerate(codes[row]))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_stored_tensors_are_what_was_announced(grid: Grid) -> None:
    found = coded(matrix(8), grid)
    stored = coded_tensors("a.weight", found, "F32")
    assert {name: (dtype, shape) for name, (dtype, shape, _) in stored.items()} == coded_shapes(
        "a.weight", found.codes.shape, grid, "F32"
    )
    assert ("a.weight_zero_point" in stored) == (not grid.symmetric)
    sizes = {"I32": 4, "I64": 8, "F32": 4}
    assert all(data.nbytes == sizes[dtype] * np.prod(shape) for dtype, shape, data in stored.values())


@pytest.mark.parametrize(("bits", "cols", "group"), [(4, 576, 64), (4, 96, 32), (8, 576, 96), (8, 1536, 128)])
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
def test_a_matrix_quantized_at_load_is_its_codes(bits: int, cols: int, group: int, stored: str) -> None:
    values = matrix(9, 40, cols)
    kinds = {"F32": values, "F16": values.astype(np.float16), "BF16": (values.view(np.uint32) >> 16).astype(np.uint16)}
    raw = kinds[stored].view(np.uint8)
    exact = {
        "F32": values,
        "F16": kinds["F16"].astype(np.float32),
        "BF16": (values.view(np.uint32) & 0xFFFF0000).view("f4"),
    }
    form = online_format(stored, cols, bits, 64 if bits == 4 else 128)
    assert form is not None and form.group == group and form.layout is (Layout.W4 if bits == 4 else Layout.W8)
    weight = pack(form, raw, cols)
    expected = coded(exact[stored], Grid(bits, group, search=bits == 4)).values()
    np.testing.assert_array_equal(weight.dequantize(), expected)
    assert weight.nbytes == form.packed_bytes(40, cols)


def test_widths_that_no_group_divides_stay_plain() -> None:
    assert span_of(80, 64) == 0 and span_of(96, 64) == 32 and span_of(96, 128) == 96
    assert online_format("F32", 80, 4, 64) is None
