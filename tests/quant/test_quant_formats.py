"""Stored types against packed forms: the packed matrix stands for exactly the numbers that were stored."""

import ggml_blocks
import gguf_file
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.weight import Layout, from_bfloat16, to_bfloat16
from octavo.quant import format as formats
from octavo.quant.format import QUANTIZED, SUPPORTED, format_of, pack, vector

FORMS = {  # and bits for each weight, scales included, without the tables of W4L
    "Q8_0": (Layout.W8, 32, 8.5),
    "Q4_0": (Layout.W4, 32, 4.5),
    "Q4_1": (Layout.W4M, 32, 5),
    "Q5_0": (Layout.W8, 32, 8.5),
    "Q5_1": (Layout.W8M, 32, 9),
    "Q2_K": (Layout.W4M, 16, 6),
    "Q3_K": (Layout.W4, 16, 5),
    "Q4_K": (Layout.W4M, 32, 5),
    "Q5_K": (Layout.W8M, 32, 9),
    "Q6_K": (Layout.W8, 16, 9),
    "IQ4_NL": (Layout.W4L, 32, 4.5),
    "IQ4_XS": (Layout.W4L, 32, 4.5),
    "MXFP4": (Layout.W4L, 32, 4.5),
}


def near(kind, raw, weight, cols):
    """The packed matrix stands for what the bytes do: exactly, or each scale and minimum rounded once."""
    exact = ggml_blocks.decode(kind, raw.tobytes(), (weight.rows, cols))
    error = np.abs(weight.dequantize().astype(np.float64) - exact)
    return bool((error <= ggml_blocks.once_rounded(kind, raw.tobytes(), (weight.rows, cols))).all())


def packed(kind, raw, cols, dtype="auto"):
    form = format_of(kind, dtype)
    weight = pack(form, raw, cols)
    assert (weight.layout, weight.group) == (form.layout, form.group)
    assert weight.nbytes == form.packed_bytes(raw.shape[0], cols)
    assert not weight.data.flags.writeable
    assert weight.data.ctypes.data % 64 == 0
    return weight


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (32, 2), (33, 3)])
def test_quantized_blocks_keep_their_values(kind, rows, blocks):
    cols = ggml_blocks.SIZES[kind][0] * blocks
    raw = ggml_blocks.noise(kind, rows, cols)
    weight = packed(kind, raw, cols)
    assert near(kind, raw, weight, cols)
    assert (weight.layout, weight.group) == FORMS[kind][:2]
    table = 64 if weight.layout is Layout.W4L else 0
    assert (weight.nbytes / weight.panels - table) * 8 / 32 / cols == FORMS[kind][2]


def test_every_form_has_a_layout_to_expect():
    assert FORMS.keys() == QUANTIZED.keys() == ggml_blocks.SIZES.keys()


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_the_fixtures_own_quantizer_is_near_what_it_quantizes(kind):
    values = np.random.default_rng(5).standard_normal((3, 512)).astype(np.float32)
    error = np.abs(ggml_blocks.decode(kind, ggml_blocks.encode(kind, values), (3, 512)) - values)
    assert error.max() < (0.3 if kind == "Q4_K" else 0.07)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (32, 64), (33, 7)])
def test_plain_values_are_kept_or_rounded_once(kind, rows, cols):
    values = np.random.default_rng(1).standard_normal((rows, cols)).astype(np.float32)
    stored = gguf_file.encode(kind, values)
    exact = gguf_file.decode(kind, stored, (rows, cols))
    raw = np.frombuffer(stored, np.uint8).reshape(rows, -1)
    assert np.array_equal(packed(kind, raw, cols, "float32").dequantize(), exact)
    rounded = from_bfloat16(to_bfloat16(exact))
    for dtype in ("auto", "bfloat16"):
        weight = packed(kind, raw, cols, dtype)
        assert weight.layout is Layout.BF16
        assert np.array_equal(weight.dequantize(), rounded)
    assert np.array_equal(vector(raw, kind), exact.ravel())


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(QUANTIZED)),
    rows=st.integers(1, 40),
    blocks=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_any_blocks_keep_their_values(kind, rows, blocks, seed):
    cols = ggml_blocks.SIZES[kind][0] * blocks
    raw = ggml_blocks.noise(kind, rows, cols, seed)
    assert near(kind, raw, packed(kind, raw, cols), cols)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_packing_in_steps_changes_nothing(kind, monkeypatch):
    raw = stored_rows(kind, 203, 256)
    whole = packed(kind, raw, 256)
    monkeypatch.setattr(formats, "STEP", 1)
    assert np.array_equal(packed(kind, raw, 256).data, whole.data)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_data_at_any_address_is_read(kind):
    """A tensor of a safetensors file may begin anywhere."""
    stored = stored_rows(kind, 5, 256)
    for shift in (1, 2, 3):
        raw = np.frombuffer(bytes(shift) + stored.tobytes(), np.uint8)[shift:].reshape(5, -1)
        assert np.array_equal(packed(kind, raw, 256).data, packed(kind, stored, 256).data)
        if kind not in QUANTIZED:
            assert np.array_equal(vector(raw, kind), gguf_file.decode(kind, stored.tobytes(), (5 * 256,)))


def stored_rows(kind, rows, cols):
    """Some tensor of a type. uint8 [rows, bytes]"""
    if kind in QUANTIZED:
        return ggml_blocks.noise(kind, rows, cols)
    values = np.random.default_rng(2).standard_normal((rows, cols)).astype(np.float32)
    return np.frombuffer(gguf_file.encode(kind, values), np.uint8).reshape(rows, -1)


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(kind, bad):
    raw = stored_rows(kind, 2, 256).copy()
    wide = np.array([bad], np.float32)
    if kind in QUANTIZED:
        refuse_scales(kind, raw, wide)
    else:
        size = len(gguf_file.encode(kind, wide))
        raw[1, -size:] = np.frombuffer(gguf_file.encode(kind, wide), np.uint8)
        with pytest.raises(ValueError, match="NaN or infinity"):
            vector(raw, kind)
        for dtype in ("auto", "float32"):
            with pytest.raises(ValueError, match="NaN or infinity"):
                pack(format_of(kind, dtype), raw, 256)


def refuse_scales(kind, raw, bad):
    """In each of a block's float16 places, or as the exponent that no float16 holds."""
    size, places = ggml_blocks.SIZES[kind][1:]
    for at in places:
        wrong = raw.copy()
        wrong[1, -size:][at : at + 2] = bad.astype(np.float16).view(np.uint8)
        with pytest.raises(ValueError, match="NaN or infinity"):
            pack(format_of(kind, "auto"), wrong, 256)
    if not places:
        raw[1, -size] = 255
        with pytest.raises(ValueError, match="beyond float16"):
            pack(format_of(kind, "auto"), raw, 256)


@pytest.mark.parametrize("kind", sorted(set(QUANTIZED) - set(ggml_blocks.EXACT)))
def test_scales_whose_product_is_beyond_float16_are_refused(kind):
    raw = ggml_blocks.noise(kind, 2, 256)
    for at in ggml_blocks.SIZES[kind][2]:
        wrong = raw.copy()
        wrong[1, at : at + 2] = np.array([60000], np.float16).view(np.uint8)
        with pytest.raises(ValueError, match="beyond float16"):
            pack(format_of(kind, "auto"), wrong, 256)


def test_the_smallest_exponents_of_mxfp4_are_rounded_to_float16():
    raw = np.zeros((1, 17), np.uint8)
    raw[0, 1:] = 0x77  # 6 * 2^(exponent - 127)
    for exponent, want in ((0, 0), (103, 0), (104, 6 * 2.0**-23), (127, 6), (142, 6 * 2.0**15)):
        raw[0, 0] = exponent
        assert np.unique(packed("MXFP4", raw, 32).dequantize()) == want


def test_a_value_beyond_bfloat16_is_refused_where_bfloat16_is_kept():
    raw = np.full((1, 2), 3.4e38, np.float32).view(np.uint8)
    with pytest.raises(ValueError, match="beyond bfloat16"):
        pack(format_of("F32", "auto"), raw, 2)
    assert pack(format_of("F32", "float32"), raw, 2).dequantize()[0, 0] == np.float32(3.4e38)


def test_what_cannot_be_kept_has_no_form():
    for kind in ("Q8_K", "IQ2_XXS", "I8", "F64", "F8_E4M3", "nonsense"):
        assert kind not in SUPPORTED
        assert format_of(kind, "auto") is None


@pytest.mark.oracle
@pytest.mark.parametrize("kind", SUPPORTED)
def test_against_the_gguf_package(kind):
    from gguf import GGMLQuantizationType, dequantize

    raw = stored_rows(kind, 70, 512)
    exact = dequantize(raw, GGMLQuantizationType[kind])
    if kind not in QUANTIZED:
        assert np.array_equal(packed(kind, raw, 512, "float32").dequantize(), exact)
        return
    assert np.array_equal(exact, ggml_blocks.decode(kind, raw.tobytes(), (70, 512)))
    assert near(kind, raw, packed(kind, raw, 512), 512)
