"""Products of every layout on every instruction set against float64 products of the same codes and scales.

Inputs are chosen so that nothing is rounded before the activation quantizer: its codes and scales are known exactly,
and only float32 sums are left to differ. `U` is half a unit in the last place.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import U, exact_rows, head_logits, of_codes, random_matrix

from octavo.bench.cases import NUMBERS
from octavo.kernels import native
from octavo.kernels.weight import (
    FLOATS,
    HALVES,
    MINIMA,
    QUANTIZED,
    WORD,
    Layout,
    Weight,
    from_bfloat16,
    read_as,
    to_bfloat16,
)

ISAS = native.isas()
SIZES = [(1, 45, 32, 32), (19, 33, 192, 64), (8, 70, 640, 640), (9, 31, 352, 32)]
PLAIN_SIZES = [(1, 1, 33), (9, 31, 50), (23, 65, 515)]
HALVED = [(1, 45, 32, 16), (11, 33, 96, 16), (8, 70, 640, 16), (17, 65, 352, 16)]


def quantized(h: np.ndarray, group: int, most: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Codes [rows, cols] and scales [rows, groups] as ops.Act defines them."""
    groups = h.reshape(len(h), -1, group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(most), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(groups * inverse).reshape(h.shape), (largest / np.float32(most))[:, :, 0]


def norm_of(rng: np.random.Generator, cols: int) -> np.ndarray:
    """Powers of two, different from group to group, so that scales of inputs differ and norms stay exact."""
    return np.repeat(2.0 ** rng.integers(-9, 9, cols // 32), 32).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("layout", "rows", "outputs", "cols", "group"),
    [
        *((layout, *size) for layout in QUANTIZED for size in SIZES),
        *((layout, *size) for layout in HALVES for size in HALVED),
    ],
)
def test_int_products(layout: Layout, isa: str, rows: int, outputs: int, cols: int, group: int) -> None:
    rng = np.random.default_rng(rows * cols)
    x, norm = exact_rows(rng, rows, cols), norm_of(rng, cols)
    h = x / np.float32(64) * norm
    h[:, :32] *= rows > 1  # a group of zeros
    norm[:32] *= rows > 1
    shared = max(group, 32)
    codes, scales = quantized(h, shared)
    weight = random_matrix(rng, layout, outputs, cols, group, 0.02)
    block = min(group, 128)  # inputs of one integer dot; dots are added in float32
    exact = weight.dequantize().astype(np.float64).reshape(outputs, -1, block)
    inputs = codes.reshape(rows, -1, block) * np.repeat(scales, shared // block, axis=1)[:, :, None].astype(np.float64)
    parts = np.einsum("rgk,ogk->rog", inputs, exact)
    size = np.abs(parts).sum(axis=2)
    terms = cols // block
    if layout in MINIMA:  # minima times sums of codes are added for each dot, and may cancel the rest
        terms += cols // min(group, 32)
        size = np.einsum("rgk,ogk->ro", np.abs(inputs), np.abs(exact) + 20 * np.abs(exact).max(axis=2, keepdims=True))
    got = head_logits(x, norm, weight, isa)
    assert (np.abs(got - parts.sum(axis=2)) <= (2 * terms + 4) * U * size).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "outputs", "cols", "group"), [*SIZES[:2], (8, 70, 640, 128), (3, 65, 384, 96)])
def test_word_products(isa: str, rows: int, outputs: int, cols: int, group: int) -> None:
    rng = np.random.default_rng(rows * cols)
    x, norm = exact_rows(rng, rows, cols), norm_of(rng, cols)
    codes, scales = quantized(x / np.float32(64) * norm, group, WORD)
    weight = random_matrix(rng, Layout.W16, outputs, cols, group, 0.02)
    exact = weight.dequantize().astype(np.float64).reshape(outputs, -1, group)
    inputs = codes.reshape(rows, -1, group) * scales[:, :, None].astype(np.float64)
    parts = np.einsum("rgk,ogk->rog", inputs, exact)
    got = head_logits(x, norm, weight, isa)
    bound = (2 * (cols // group) + 5) * U * np.abs(parts).sum(axis=2)  # codes times scale are rounded in `dequantize`
    rounding = U * np.einsum("rgk,ogk->ro", np.abs(inputs), np.abs(exact))
    assert (np.abs(got - parts.sum(axis=2)) <= bound + rounding).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("layout", "rows", "outputs", "cols", "group"),
    [
        *((layout, *size, 0) for layout in (Layout.F32, Layout.BF16) for size in PLAIN_SIZES),
        *((layout, *size) for layout in FLOATS for size in [*SIZES, (3, 65, 384, 128)]),
        *((Layout.F4, *size) for size in HALVED),
    ],
)
def test_float_products(layout: Layout, isa: str, rows: int, outputs: int, cols: int, group: int) -> None:
    rng = np.random.default_rng(cols)
    x, norm = exact_rows(rng, rows, cols), np.ones(cols, np.float32)
    h = x / np.float32(64)
    if read_as(layout, group) == (16, 0):
        h = from_bfloat16(to_bfloat16(h))
    weight = random_matrix(rng, layout, outputs, cols, group, cols**-0.5)
    exact = weight.dequantize().astype(np.float64)
    want, size = h.astype(np.float64) @ exact.T, np.abs(h).astype(np.float64) @ np.abs(exact).T
    got = head_logits(x, norm, weight, isa)
    assert (np.abs(got - want) <= (cols / 2 + 2) * U * size).all()
    error, scale = np.abs(got - want), 2 * np.sqrt(cols) * U * size
    assert np.mean(error <= scale) > 0.999


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_sum_of_words_fits(isa: str) -> None:
    codes = np.full((33, 256), WORD, np.int16)
    codes[1::2] *= -1
    weight = Weight.int16(codes, np.ones((33, 2), np.float32))
    got = head_logits(np.full((9, 256), 64, np.float32), np.ones(256, np.float32), weight, isa)
    want = np.where(np.arange(33) % 2, -256.0, 256.0) * WORD
    assert (np.abs(got / want - 1) < 4 * U).all()


def picks(layout: Layout, cols: int, group: int) -> Weight:
    """The identity: every output is one input."""
    codes = np.eye(cols, dtype=np.int8)
    scale = np.ones((cols, cols // group), np.float16)
    if layout is Layout.W4L:
        codes = 6 - codes  # table[6] is 0, table[5] is 1
    elif layout is Layout.W4:
        codes = codes + 8
    codes = codes.astype(np.uint8 if layout in (Layout.W4, Layout.W4L, Layout.W4M) else np.int8)
    return of_codes(layout, codes, scale, np.zeros_like(scale), np.arange(6, -10, -1, dtype=np.int8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("layout", "group"), [(layout, g) for layout in QUANTIZED for g in (16, 32, 64, 256) if g > 16 or layout in HALVES]
)
def test_quantizer_codes_and_scales_are_exact(layout: Layout, isa: str, group: int) -> None:
    """Each output is scale * code of one input, rounded once: equal bit by bit or some code, sum or scale is wrong."""
    rng = np.random.default_rng(group)
    x, norm = exact_rows(rng, 11, 256), norm_of(rng, 256)
    codes, scales = quantized(x / np.float32(64) * norm, max(group, 32))
    assert len(np.unique(codes)) > 100
    want = codes.astype(np.float32) * np.repeat(scales, max(group, 32), axis=1)
    assert np.array_equal(head_logits(x, norm, picks(layout, 256, group), isa), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 19])
def test_every_code_of_floats_is_exact(isa: str, rows: int) -> None:
    """Each output is one input times one number: 2^-100 to 2^100 times every E4M3 number, and a table's."""
    x = np.zeros((rows, 256), np.float32)
    x[:] = 64 * np.resize([1, -1], 256)
    finite = np.array([code for code in range(256) if code & 127 != 127], np.uint8)
    scale = np.ldexp(np.float32(1), np.linspace(-100, 100, 254).astype(int))
    places = np.arange(254)
    for layout in FLOATS:
        codes = np.full((254, 256), 0 if layout is Layout.F8 else 7, np.uint8)
        if layout is Layout.F8:
            codes[places, places] = finite
            weight = Weight.float8(codes, scale[:, None].astype(np.float32))
        else:
            codes[places, places] = finite % 16
            weight = Weight.float4(codes, scale[:, None].astype(np.float32), np.r_[NUMBERS[:7], 0, NUMBERS[8:]])
        want = x / 64 @ weight.dequantize().T
        assert np.array_equal(head_logits(x, np.ones(256, np.float32), weight, isa), want)


@pytest.mark.parametrize("isa", ISAS)
def test_quantizer_sums_are_exact(isa: str) -> None:
    """Weights of code 0 and minimum 1: the output is the sum of the codes times their scale."""
    rng = np.random.default_rng(0)
    x = exact_rows(rng, 13, 32)
    codes, scales = quantized(x / np.float32(64), 32)
    ones = np.ones((3, 1), np.float16)
    weight = Weight.int4_min(np.zeros((3, 32), np.uint8), 0 * ones, ones)
    want = (codes.sum(axis=1, keepdims=True) * scales).astype(np.float32)
    assert np.array_equal(head_logits(x, np.ones(32, np.float32), weight, isa), np.repeat(want, 3, axis=1))
    none = np.zeros((3, 32), np.int8)
    weight = Weight.int8_min(none, 0 * ones, ones)
    assert np.array_equal(head_logits(x, np.ones(32, np.float32), weight, isa), np.repeat(want, 3, axis=1))
    for half in (0, 1):  # of a group of inputs, whose sums are told apart
        minimum = np.zeros((3, 2), np.float16)
        minimum[:, half] = 1
        weight = Weight.int4_min(none.astype(np.uint8), 0 * minimum, minimum)
        part = (codes[:, 16 * half : 16 * half + 16].sum(axis=1, keepdims=True) * scales).astype(np.float32)
        assert np.array_equal(head_logits(x, np.ones(32, np.float32), weight, isa), np.repeat(part, 3, axis=1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", QUANTIZED)
@pytest.mark.parametrize("group", [32, 128])
def test_largest_dots_are_exact(layout: Layout, isa: str, group: int) -> None:
    """All codes as large as they can be, of one sign or alternating: sums in 16 bits must not saturate."""
    cols = 256
    least, most, kind = {
        Layout.W8: (-128, 127, np.int8),
        Layout.W8M: (-128, 127, np.int8),
    }.get(layout, (0, 15, np.uint8))
    signs = np.stack([np.ones(cols), -np.ones(cols), np.resize([1, -1], cols), np.resize([1, 1, -1, -1], cols)])
    x = np.concatenate([signs, signs[::-1], signs]).astype(np.float32)
    codes = np.stack([np.full(cols, least), np.full(cols, most), np.resize([least, most], cols)]).astype(kind)
    scale = np.ones((3, cols // group), np.float16)
    table = np.resize(np.array([-127, 113], np.int8), 16)
    weight = of_codes(layout, codes, scale, np.zeros_like(scale), table)
    want = x.astype(np.float64) @ weight.dequantize().astype(np.float64).T
    got = head_logits(x, np.ones(cols, np.float32), weight, isa)
    assert np.allclose(got, want, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("layout", "group"), [*((layout, 32) for layout in Layout), *((layout, 16) for layout in HALVES)]
)
def test_instruction_sets_agree_and_rows_stand_alone(layout: Layout, group: int) -> None:
    """The same row alone, among others and on more threads: the same bits; another instruction set: float32 apart."""
    rng = np.random.default_rng(1)
    x, norm = exact_rows(rng, 67, 128), norm_of(rng, 128)
    weight = random_matrix(rng, layout, 100, 128, group, 0.1)
    whole = {isa: head_logits(x, norm, weight, isa) for isa in ISAS}
    size = np.abs(whole[ISAS[0]]).max()
    for isa, logits in whole.items():
        assert np.abs(logits - whole[ISAS[0]]).max() <= 2e-6 * size, isa
        assert np.array_equal(logits, head_logits(x, norm, weight, isa, threads=3)), isa
        for count in (1, 2, 7, 9):
            assert np.array_equal(logits[:count], head_logits(x[:count], norm, weight, isa)), (isa, count)
