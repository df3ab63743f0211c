"""Stored types against packed forms: the packed matrix stands for exactly the numbers that were stored."""

import gguf_file
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.weight import Layout, from_bfloat16, to_bfloat16
from octavo.quant import format as formats
from octavo.quant.format import SUPPORTED, format_of, pack, vector

QUANTIZED = ("Q8_0", "Q4_0", "Q4_1")
LAYOUTS = {"Q8_0": Layout.W8, "Q4_0": Layout.W4, "Q4_1": Layout.W4M}


def random_bytes(kind, rows, cols, seed=0):
    """Any codes at all, with scales of ordinary size. uint8 [rows, bytes]"""
    random = np.random.default_rng(seed)
    size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    blocks = random.integers(0, 256, (rows, cols // 32, size), np.uint8)
    for at in range(0, 4 if kind == "Q4_1" else 2, 2):
        scale = random.standard_normal((rows, cols // 32, 1)).astype(np.float16)
        blocks[:, :, at : at + 2] = scale.view(np.uint8)
    return blocks.reshape(rows, -1)


def packed(kind, raw, cols, dtype="auto"):
    form = format_of(kind, dtype)
    weight = pack(form, raw, cols)
    assert (weight.layout, weight.group) == (form.layout, form.group)
    assert weight.nbytes == form.packed_bytes(raw.shape[0], cols)
    assert not weight.data.flags.writeable
    assert weight.data.ctypes.data % 64 == 0
    return weight


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (32, 64), (33, 96), (100, 576)])
def test_quantized_blocks_keep_their_exact_values(kind, rows, cols):
    raw = random_bytes(kind, rows, cols)
    weight = packed(kind, raw, cols)
    assert weight.layout is LAYOUTS[kind]
    assert weight.group == 32
    assert np.array_equal(weight.dequantize(), gguf_file.decode(kind, raw.tobytes(), (rows, cols)))


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
@given(kind=st.sampled_from(QUANTIZED), rows=st.integers(1, 80), blocks=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_any_blocks_keep_their_exact_values(kind, rows, blocks, seed):
    raw = random_bytes(kind, rows, blocks * 32, seed)
    exact = gguf_file.decode(kind, raw.tobytes(), (rows, blocks * 32))
    assert np.array_equal(packed(kind, raw, blocks * 32).dequantize(), exact)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_packing_in_steps_changes_nothing(kind, monkeypatch):
    values = np.random.default_rng(2).standard_normal((203, 64)).astype(np.float32)
    raw = np.frombuffer(gguf_file.encode(kind, values), np.uint8).reshape(203, -1)
    whole = packed(kind, raw, 64)
    monkeypatch.setattr(formats, "STEP", 1)
    assert np.array_equal(packed(kind, raw, 64).data, whole.data)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_data_at_any_address_is_read(kind):
    """A tensor of a safetensors file may begin anywhere."""
    values = np.random.default_rng(3).standard_normal((5, 32)).astype(np.float32)
    stored = gguf_file.encode(kind, values)
    for shift in (1, 2, 3):
        raw = np.frombuffer(bytes(shift) + stored, np.uint8)[shift:].reshape(5, -1)
        assert np.array_equal(packed(kind, raw, 32).dequantize()[0], pack_reference(kind, stored)[0])
        if not kind.startswith("Q"):
            assert np.array_equal(vector(raw, kind), gguf_file.decode(kind, stored, (160,)))


def pack_reference(kind, stored):
    exact = gguf_file.decode(kind, stored, (5, 32))
    return exact if kind.startswith("Q") else from_bfloat16(to_bfloat16(exact))


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(kind, bad):
    values = np.ones((2, 32), np.float32)
    raw = np.frombuffer(gguf_file.encode(kind, values), np.uint8).reshape(2, -1).copy()
    wide = np.array([bad], np.float32)
    if kind.startswith("Q"):
        raw[1, :2] = wide.astype(np.float16).view(np.uint8)
    else:
        size = len(gguf_file.encode(kind, wide))
        raw[1, -size:] = np.frombuffer(gguf_file.encode(kind, wide), np.uint8)
        with pytest.raises(ValueError, match="NaN or infinity"):
            vector(raw, kind)
    for dtype in ("auto", "float32"):
        with pytest.raises(ValueError, match="NaN or infinity"):
            pack(format_of(kind, dtype), raw, 32)


def test_a_value_beyond_bfloat16_is_refused_where_bfloat16_is_kept():
    raw = np.full((1, 2), 3.4e38, np.float32).view(np.uint8)
    with pytest.raises(ValueError, match="beyond bfloat16"):
        pack(format_of("F32", "auto"), raw, 2)
    assert pack(format_of("F32", "float32"), raw, 2).dequantize()[0, 0] == np.float32(3.4e38)


def test_what_cannot_be_kept_has_no_form():
    for kind in ("Q4_K", "Q6_K", "I8", "F64", "F8_E4M3", "nonsense"):
        assert kind not in SUPPORTED
        assert format_of(kind, "auto") is None


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [*QUANTIZED, "F16", "BF16"])
def test_against_the_gguf_package(kind):
    from gguf import GGMLQuantizationType, dequantize, quantize

    values = np.random.default_rng(4).standard_normal((70, 192)).astype(np.float32)
    stored = quantize(values, GGMLQuantizationType[kind])
    raw = np.ascontiguousarray(stored).view(np.uint8).reshape(70, -1)
    exact = dequantize(stored, GGMLQuantizationType[kind])
    assert np.array_equal(packed(kind, raw, 192, "float32").dequantize(), exact)
    if kind.startswith("Q"):
        raw = random_bytes(kind, 70, 192)
        assert np.array_equal(packed(kind, raw, 192).dequantize(), dequantize(raw, GGMLQuantizationType[kind]))
