"""Quantized modules of every format, packed independently: the weight stands for the numbers that were meant."""

import json

import numpy as np
import pytest
import quantized_module as made
import safetensors_file
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import open_source
from octavo.checkpoint.tensor import Tensor
from octavo.core.errors import ModelError
from octavo.kernels.weight import Layout, from_bfloat16, to_bfloat16
from octavo.quant.coded import TABLES
from octavo.quant.folder import plain_tensors
from octavo.quant.format import format_of, pack


def folder(path, tensors, quantization):
    """A folder of one module "x" and one plain tensor beside it."""
    path.mkdir(exist_ok=True)
    other = {"lm_head.weight": made.plain(np.ones((4, 4)), "F16")}
    safetensors_file.write(path / "model.safetensors", {f"x{part}": value for part, value in tensors.items()} | other)
    (path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    return path


def weight_of(path, dtype="auto", name="x.weight"):
    """The packed weight of a folder's module."""
    with open_source(path) as source:
        tensors = plain_tensors(source)
        assert set(tensors) == {name, "lm_head.weight"}
        assert isinstance(tensors["lm_head.weight"], Tensor)
        tensor = tensors[name]
        raw = tensor.read().reshape(int(np.prod(tensor.shape[:-1])), -1)
        weight = pack(format_of(tensor.dtype, dtype), raw, tensor.shape[-1])
        assert (weight.rows, weight.cols) == (raw.shape[0], tensor.shape[-1])
        return weight


def arranged_of(path):
    """The packed weight of a folder's module with its inputs sorted by group, and their order."""
    with open_source(path) as source:
        tensor = plain_tensors(source)["x.weight"].arranged
        weight = pack(format_of(tensor.dtype, "auto"), tensor.read(), tensor.shape[1])
        return weight, np.frombuffer(tensor.order, np.int32)


def integers(rows, cols, groups, bits, seed, symmetric, columns=None):
    """Codes, float16 scales, zeros, the group of each input, and the numbers exactly (float64)."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << bits, (rows, cols))
    scale = (random.standard_normal((rows, groups)) * 0.01).astype(np.float16)
    zero = np.full((rows, groups), 1 << (bits - 1)) if symmetric else random.integers(1, 1 << bits, (rows, groups))
    columns = np.arange(cols) // -(-cols // groups) if columns is None else columns
    exact = scale.astype(np.float64)[:, columns] * (codes - zero[:, columns])
    return codes, scale, zero, columns, exact


def check(weight, exact, layout, scale=None, zero=None, columns=None):
    """Equal; with a minimum, to the one rounding of it. exact: float64, or float32 as the format defines it."""
    assert weight.layout is layout
    found = weight.dequantize().astype(np.float64)
    if layout is Layout.BF16:
        assert np.array_equal(found, from_bfloat16(to_bfloat16(exact.astype(np.float32))))
    elif layout in (Layout.W4, Layout.W8, Layout.F8, Layout.F4):
        assert np.array_equal(found, exact)
    else:
        half_a_step = (
            np.abs(scale.astype(np.float64) * (zero - (128 if layout is Layout.W8M else 0)))[:, columns] * 2.0**-11
            + 2.0**-25
        )
        assert (np.abs(found - exact) <= half_a_step * 1.0001).all()


def gptq_config(bits, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": 32, "sym": True, "desc_act": False} | more


def layout_of(bits, symmetric):
    if bits == 8:
        return Layout.W8 if symmetric else Layout.W8M
    return Layout.W4 if symmetric else Layout.W4M


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64, 1), (32, 96, 3), (32, 256, 2), (64, 32, 1), (32, 384, 1)]))
def test_gptq(tmp_path_factory, bits, symmetric, version, seed, shape):
    codes, scale, zero, columns, exact = integers(*shape, bits, seed, symmetric)
    tensors = made.gptq(codes, scale, zero, columns, bits, version=version)
    config = gptq_config(bits, checkpoint_format="gptq" if version == 1 else "gptq_v2")
    path = folder(tmp_path_factory.mktemp("x"), tensors, config)
    check(weight_of(path), exact, layout_of(bits, symmetric), scale, zero, columns)


def test_gptq_without_g_idx_and_groups_that_end_early(tmp_path):
    columns = np.arange(160) // 128
    codes, scale, zero, columns, exact = integers(32, 160, 2, 4, 0, True, columns)
    tensors = made.gptq(codes, scale, zero, columns, 4, index=False)
    weight = weight_of(folder(tmp_path, tensors, gptq_config(4, group_size=128)))
    assert weight.group == 32
    check(weight, exact, Layout.W4)


def test_gptq_of_one_group_reads_inputs_in_groups_of_128(tmp_path):
    codes, scale, zero, columns, exact = integers(32, 512, 1, 4, 0, False)
    weight = weight_of(
        folder(tmp_path, made.gptq(codes, scale, zero, columns, 4, index=False), gptq_config(4, group_size=-1))
    )
    assert weight.group == 128
    check(weight, exact, Layout.W4M, scale, zero, columns)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_in_act_order_is_exact(tmp_path, bits, symmetric):
    columns = np.random.default_rng(1).permutation(np.arange(128) // 32)
    codes, scale, zero, columns, exact = integers(32, 128, 4, bits, 1, symmetric, columns)
    path = folder(tmp_path, made.gptq(codes, scale, zero, columns, bits), gptq_config(bits, desc_act=True))
    check(weight_of(path), exact, Layout.BF16)
    assert np.array_equal(weight_of(path, "float32").dequantize(), exact.astype(np.float32))
    order = np.argsort(columns, kind="stable")
    weight, found = arranged_of(path)
    assert np.array_equal(found, order)
    check(weight, exact[:, order], layout_of(bits, symmetric), scale, zero, columns[order])


def test_act_order_of_groups_of_no_multiple_of_32_stays_plain(tmp_path):
    columns = np.random.default_rng(1).permutation(np.arange(96) // 16)
    codes, scale, zero, columns, _ = integers(32, 96, 6, 4, 1, True, columns)
    path = folder(tmp_path, made.gptq(codes, scale, zero, columns, 4), gptq_config(4, desc_act=True))
    with open_source(path) as source:
        assert plain_tensors(source)["x.weight"].arranged is None


def test_a_zero_of_0_borrows_from_its_neighbour_as_gptqmodel_writes_it(tmp_path):
    codes, scale, zero, columns, exact = integers(32, 32, 1, 4, 2, False)
    zero[::3] = 0
    exact = scale.astype(np.float64)[:, columns] * (codes - zero[:, columns])
    tensors = made.gptq(codes, scale, zero, columns, 4, version=2)
    packed = np.frombuffer(tensors[".qzeros"][2], np.uint32) - np.uint32(0x11111111)  # as convert_gptq_v2_to_v1 does
    tensors[".qzeros"] = made.i32(packed.reshape(tensors[".qzeros"][1]))
    check(weight_of(folder(tmp_path, tensors, gptq_config(4))), exact, Layout.W4M, scale, zero, columns)


def test_modules_of_several_widths_are_told_by_their_index(tmp_path):
    codes, scale, zero, columns, exact = integers(32, 64, 2, 8, 3, True)
    check(weight_of(folder(tmp_path, made.gptq(codes, scale, zero, columns, 8), gptq_config(4))), exact, Layout.W8)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64, 1), (8, 96, 3), (32, 256, 2), (40, 128, 4)]))
def test_awq_gemm(tmp_path_factory, seed, shape):
    codes, scale, zero, columns, exact = integers(*shape, 4, seed, False)
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    path = folder(tmp_path_factory.mktemp("x"), made.awq_gemm(codes, scale, zero), config)
    check(weight_of(path), exact, Layout.W4M, scale, zero, columns)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64, 1), (8, 96, 3), (32, 256, 2), (40, 128, 4)]))
def test_awq_gemv(tmp_path_factory, seed, shape):
    codes, scale, zero, columns, exact = integers(*shape, 4, seed, False)
    size = shape[1] // shape[2]
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "GEMV"}
    path = folder(tmp_path_factory.mktemp("x"), made.awq_gemv(codes, scale, zero, size), config)
    check(weight_of(path), exact, Layout.W4M, scale, zero, columns)


def compressed_config(bits, form="pack-quantized", **weights):
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "symmetric": True} | weights}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


@pytest.mark.parametrize("zeros", ["none", "packed", "bytes"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64, 1), (33, 96, 3), (7, 256, 2), (32, 32, 1)]))
def test_compressed_tensors_packed(tmp_path_factory, bits, zeros, seed, shape):
    codes, scale, zero, columns, exact = integers(*shape, bits, seed, zeros == "none")
    tensors = made.compressed(
        codes, scale, None if zeros == "none" else zero, None, bits, packed_zero=zeros == "packed"
    )
    path = folder(tmp_path_factory.mktemp("x"), tensors, compressed_config(bits))
    check(weight_of(path), exact, layout_of(bits, zeros == "none"), scale, zero, columns)


@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors_in_act_order_is_exact(tmp_path, symmetric):
    columns = np.random.default_rng(1).permutation(np.arange(128) // 32)
    codes, scale, zero, columns, exact = integers(32, 128, 4, 4, 1, symmetric, columns)
    tensors = made.compressed(codes, scale, None if symmetric else zero, columns, 4)
    path = folder(tmp_path, tensors, compressed_config(4))
    check(weight_of(path), exact, Layout.BF16)
    weight, order = arranged_of(path)
    check(weight, exact[:, order], layout_of(4, symmetric), scale, zero, columns[order])


@pytest.mark.parametrize("kind", ["tensor", "channel", "channels", "group", "asymmetric"])
def test_compressed_tensors_of_a_byte_a_code(tmp_path, kind):
    codes, scale, zero, columns, exact = integers(48, 256, 2 if kind == "group" else 1, 8, 4, kind != "asymmetric")
    if kind == "tensor":
        scale = np.broadcast_to(scale[:1], (48, 1))
        exact = scale.astype(np.float64)[:, columns] * (codes - 128)
    shape = {"tensor": (1,), "channels": (48,)}.get(kind, scale.shape)
    stored = scale[:1].reshape(1) if kind == "tensor" else scale.reshape(shape)
    tensors = {".weight": made.plain(codes - 128, "I8"), ".weight_scale": made.plain(stored)}
    if kind == "asymmetric":
        tensors[".weight_zero_point"] = made.plain(zero - 128, "I8")
    config = compressed_config(8, "int-quantized")
    layout = layout_of(8, kind != "asymmetric")
    check(weight_of(folder(tmp_path, tensors, config)), exact, layout, scale, zero, columns)


def float8(rows, cols, table="E4M3", seed=5):
    """Codes of finite numbers, and the numbers. uint8, float32 [rows, cols]"""
    codes = np.random.default_rng(seed).integers(0, 256, (rows, cols), np.uint8)
    codes[np.isnan(TABLES[table][codes])] = 0
    return codes, TABLES[table][codes]


@pytest.mark.parametrize("method", ["fp8", "compressed-tensors", "fbgemm_fp8", "modelopt"])
@pytest.mark.parametrize("shape", [(), (1,), (70,), (70, 1), (1, 2), (70, 2), (3, 8)])
@pytest.mark.parametrize("table", ["E4M3", "E5M2"])
def test_float8(tmp_path, method, shape, table):
    codes, values = float8(70, 256, table)
    scale = np.random.default_rng(6).uniform(0.001, 0.01, shape).astype(np.float32)
    config = {"quant_method": method, "weight_block_size": [24, 32] if shape == (3, 8) else None}
    if method == "compressed-tensors":
        config = compressed_config(8, "float-quantized", type="float", block_structure=config["weight_block_size"])
    name = ".weight_scale_inv" if method == "fp8" else ".weight_scale"
    stored = {".weight": (f"F8_{table}", (70, 256), codes.tobytes()), name: made.plain(scale, "F32")}
    stored[".input_scale"] = made.plain(np.ones(1), "F32")
    grid = scale.reshape(scale.shape[0] if shape else 1, -1)
    high, wide = (24, 32) if shape == (3, 8) else (-(-70 // grid.shape[0]), 256 // grid.shape[1])
    exact = values * np.repeat(np.repeat(grid, high, 0)[:70], wide, 1)
    path = folder(tmp_path, stored, config)
    check(weight_of(path), exact, Layout.F8 if table == "E4M3" else Layout.BF16)
    assert np.array_equal(weight_of(path, "float32").dequantize(), exact)


def test_blocks_of_float8_may_end_early(tmp_path):
    """As DeepSeek's: 128 by 128, of sizes that are no multiples."""
    codes, values = float8(200, 160)
    scale = np.random.default_rng(6).uniform(0.001, 0.01, (2, 2)).astype(np.float32)
    stored = {".weight": ("F8_E4M3", (200, 160), codes.tobytes()), ".weight_scale_inv": made.plain(scale, "F32")}
    exact = values * np.repeat(np.repeat(scale, 128, 0)[:200], 128, 1)[:, :160]
    weight = weight_of(folder(tmp_path, stored, {"quant_method": "fp8"}))
    check(weight, exact, Layout.F8)
    assert weight.group == 32


def test_float8_whose_inputs_fall_into_no_groups_of_32_is_kept_as_bfloat16(tmp_path):
    codes, values = float8(40, 48)
    stored = {".weight": ("F8_E4M3", (40, 48), codes.tobytes()), ".weight_scale": made.plain(np.ones(1), "F32")}
    check(weight_of(folder(tmp_path, stored, {"quant_method": "fp8"})), values, Layout.BF16)


def test_bitsandbytes_of_8_bits(tmp_path):
    codes = np.random.default_rng(7).integers(-127, 128, (40, 192))
    largest = np.random.default_rng(8).uniform(0.1, 1, 40).astype(np.float32)
    stored = {".weight": made.plain(codes, "I8"), ".SCB": made.plain(largest, "F32")}
    stored[".weight_format"] = made.plain(np.zeros(()), "U8")
    weight = weight_of(folder(tmp_path, stored, {"load_in_8bit": True}))
    scale = (largest / np.float32(127)).astype(np.float16).astype(np.float64)  # the one rounding
    check(weight, scale[:, None] * codes, Layout.W8)
    assert weight.group == 96


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("cols", [64, 128, 96, 40])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_of_4_bits(tmp_path, name, cols, nested):
    random = np.random.default_rng(9)
    rows, table = 48, TABLES[name.upper()]
    codes = random.integers(0, 16, (rows, cols))
    blocks = -(-rows * cols // 64)
    absmax = random.uniform(0.1, 1, blocks).astype(np.float32)
    more = None
    if nested:
        stored = random.integers(0, 256, blocks)
        more = (np.linspace(-1, 1, 256).astype(np.float32), np.float32([0.3, 0.7])[: -(-blocks // 64)], 64, 0.5)
        absmax = more[0][stored] * np.repeat(more[1], 64)[:blocks] + np.float32(0.5)
        tensors = made.four_bit(codes, table, stored, 64, name, more)
    else:
        tensors = made.four_bit(codes, table, absmax, 64, name)
    exact = (table[codes].ravel() * np.repeat(absmax, 64)[: rows * cols]).reshape(rows, cols)
    path = folder(tmp_path, tensors, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    check(weight_of(path), exact, Layout.BF16 if cols == 40 else Layout.F4)  # blocks end within rows of 40
    assert np.array_equal(weight_of(path, "float32").dequantize(), exact)


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_settings_in_a_file_of_their_own(tmp_path, file):
    codes, scale, zero, columns, exact = integers(32, 64, 2, 4, 10, False)
    gptq = file == "quantize_config.json"
    tensors = made.gptq(codes, scale, zero, columns, 4) if gptq else made.awq_gemm(codes, scale, zero)
    path = folder(tmp_path, tensors, None)
    told = {"bits": 4, "group_size": 32} if gptq else {"w_bit": 4, "q_group_size": 32, "version": "GEMM"}
    (path / file).write_text(json.dumps(told))
    check(weight_of(path), exact, Layout.W4M, scale, zero, columns)


def test_mxfp4_experts(tmp_path):
    """As gpt-oss: the number 2j of a block in the low half of byte j."""
    random = np.random.default_rng(11)
    codes = random.integers(0, 16, (3, 40, 96))
    scales = random.integers(110, 130, (3, 40, 3))
    blocks = (codes[..., 0::2] + 16 * codes[..., 1::2]).reshape(3, 40, 3, 16)
    path = folder(
        tmp_path, {"_blocks": made.plain(blocks, "U8"), "_scales": made.plain(scales, "U8")}, {"quant_method": "mxfp4"}
    )
    exact = E2M1[codes] * np.repeat(2.0 ** (scales - 127), 32, axis=-1)
    weight = weight_of(path, name="x")
    assert weight.layout is Layout.W4L
    assert np.array_equal(weight.dequantize(), exact.reshape(120, 96))


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def pairs(codes):
    """The first of two codes in the low half of a byte."""
    return made.plain(codes[:, 0::2] + 16 * codes[:, 1::2], "U8")


@pytest.mark.parametrize("tool", ["compressed-tensors", "modelopt"])
def test_nvfp4(tmp_path, tool):
    random = np.random.default_rng(12)
    codes, (scale, fine) = random.integers(0, 16, (40, 96)), float8(40, 6)
    whole = np.float32([172.0]) if tool == "compressed-tensors" else np.float32([1 / 300])
    factor = fine / whole if tool == "compressed-tensors" else fine * whole
    stored = {".weight_scale": ("F8_E4M3", (40, 6), scale.tobytes())}
    if tool == "compressed-tensors":
        stored |= {".weight_packed": pairs(codes), ".weight_global_scale": made.plain(whole, "F32")}
        stored[".input_global_scale"] = made.plain(whole, "F32")
        config = compressed_config(4, "nvfp4-pack-quantized", type="float")
    else:
        stored |= {".weight": pairs(codes), ".weight_scale_2": made.plain(whole.reshape(()), "F32")}
        stored[".input_scale"] = made.plain(whole.reshape(()), "F32")
        config = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    weight = weight_of(folder(tmp_path, stored, config))
    check(weight, E2M1.astype(np.float32)[codes] * np.repeat(factor, 16, axis=1), Layout.F4)
    assert weight.group == 16


def test_mxfp4_of_compressed_tensors(tmp_path):
    random = np.random.default_rng(13)
    codes, scales = random.integers(0, 16, (40, 96)), random.integers(110, 130, (40, 3))
    stored = {".weight_packed": pairs(codes), ".weight_scale": made.plain(scales, "U8")}
    weight = weight_of(folder(tmp_path, stored, compressed_config(4, "mxfp4-pack-quantized", type="float")))
    assert weight.layout is Layout.W4L
    assert np.array_equal(weight.dequantize(), E2M1[codes] * np.repeat(2.0 ** (scales - 127), 32, axis=1))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        (".weight_scale", ("F8_E4M3", (40, 5), bytes(200)), r"expected F8_E4M3 of \[40, 6\]"),
        (".weight_scale", ("U8", (40, 6), bytes(240)), r"expected F8_E4M3 of \[40, 6\]"),
        (".weight_global_scale", made.plain(np.ones(2), "F32"), "expected one number"),
        (".weight_packed", ("U8", (40, 40), bytes(1600)), r"expected F8_E4M3 of \[40, 5\]|a multiple of 32"),
        (".weight_packed", ("I8", (40, 48), bytes(1920)), "is there without"),
        (".weight_scale", ("F8_E4M3", (40, 6), b"\x7f" * 240), "NaN or infinity"),
        (".weight_global_scale", made.plain(np.zeros(1), "F32"), "NaN or infinity"),
    ],
)
def test_nvfp4_whose_parts_do_not_fit_is_refused(tmp_path, part, value, words):
    stored = {".weight_scale": ("F8_E4M3", (40, 6), b"\x38" * 240), ".weight_packed": ("U8", (40, 48), bytes(1920))}
    stored |= {".weight_global_scale": made.plain(np.ones(1), "F32"), part: value}
    with pytest.raises((ModelError, ValueError), match=words):
        weight_of(folder(tmp_path, stored, compressed_config(4, "nvfp4-pack-quantized", type="float")))
