"""Latent attention from files: one stored matrix becomes two, and settings that are not served are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import moe_gguf
import numpy as np
import pytest
import quantized_module
import safetensors_file
import zoo_gguf

from octavo.checkpoint.source import Source, open_source
from octavo.core.errors import ModelError
from octavo.core.layout import KvLayout
from octavo.kernels.weight import Layout
from octavo.models.groups import kv_layout
from octavo.models.load import Weights, footprint, load
from octavo.models.lower import lower
from octavo.models.registry import ARCHITECTURES, read_spec
from octavo.models.settings import Settings
from octavo.program.check import check
from octavo.program.ops import Latent

ZOO = Path(__file__).parents[1] / "data" / "zoo"
LITE = ZOO / "deepseek_v2-lite"
KV_B = "model.layers.1.self_attn.kv_b_proj"


def loaded(folder: Path, **options: Any) -> Weights:
    with open_source(folder) as source:
        spec = read_spec(source)
        weights = load(source, spec, **options)
        assert sum(footprint(source, spec, **options).values()) == sum(each.nbytes for each in weights.values())
        return weights


def halves(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of 4 heads with 32 rows of keys and 64 of values each, the keys' the other way round."""
    keys, values = np.split(stored.reshape(4, 96, 32), [32], axis=1)
    return keys.swapaxes(1, 2).reshape(128, 32), values.reshape(256, 32)


def test_what_makes_keys_and_values_is_cut_in_two() -> None:
    wanted = halves(zoo_gguf.read(LITE / "model.safetensors")[KV_B + ".weight"])
    weights = loaded(LITE)
    for name, want in zip(("k_b", "v_b"), wanted, strict=True):
        found = weights[f"layers.1.{name}"]
        assert found.layout is Layout.BF16  # type: ignore[union-attr]
        assert np.array_equal(found.dequantize(), want)  # type: ignore[union-attr]
    coded = loaded(LITE, quantization="int8")
    for name, want in zip(("k_b", "v_b"), wanted, strict=True):
        found = coded[f"layers.1.{name}"]
        assert (found.layout, found.group) == (Layout.W8, 32)  # type: ignore[union-attr]
        np.testing.assert_allclose(found.dequantize(), want, atol=0.01)  # type: ignore[union-attr]


def test_codes_that_cannot_be_turned_become_numbers(tmp_path: Path) -> None:
    """Groups lie along the latent dims: values keep their codes, keys, which are read along them, are bfloat16."""
    rng = np.random.default_rng(0)
    stored = {
        name: values for name, values in zoo_gguf.read(LITE / "model.safetensors").items() if name != KV_B + ".weight"
    }
    codes = rng.integers(0, 16, (384, 32))
    scale = rng.uniform(0.01, 0.02, (384, 1)).astype(np.float16)
    module = quantized_module.compressed(codes, scale, None, None, 4)
    safetensors_file.write(
        tmp_path / "model.safetensors", stored | {KV_B + part: each for part, each in module.items()}
    )
    group = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    method |= {"config_groups": {"group_0": {"targets": ["Linear"], "weights": group}}}
    config = json.loads((LITE / "config.json").read_text()) | {"quantization_config": method}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = loaded(tmp_path)
    keys, values = halves((codes - 8) * scale.astype(np.float32))
    found = weights["layers.1.k_b"], weights["layers.1.v_b"]
    assert [each.layout for each in found] == [Layout.BF16, Layout.W4]  # type: ignore[union-attr]
    np.testing.assert_allclose(found[0].dequantize(), keys, rtol=2**-8)  # type: ignore[union-attr]
    assert np.array_equal(found[1].dequantize(), values)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v2-lite"])
def test_codes_of_gguf_files_stay_where_groups_lie_along_what_is_read(name: str, tmp_path: Path) -> None:
    """Files since 2025-04 have keys' half turned and apart; in older ones it is turned at load."""
    architecture, more, renamed = moe_gguf.FILES[name]
    split = name == "deepseek_v2"
    kinds = dict.fromkeys(["attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight"], "Q8_0")
    path = moe_gguf.as_gguf(ZOO / name, tmp_path / "x.gguf", architecture, more, renamed, kinds)
    weights, plain = loaded(path), loaded(ZOO / name)
    found = [weights[f"layers.1.{part}"] for part in ("k_b", "v_b")]
    assert [each.layout for each in found] == [Layout.W8 if split else Layout.BF16, Layout.W8]  # type: ignore[union-attr]
    for each, part in zip(found, ("k_b", "v_b"), strict=True):
        want = plain[f"layers.1.{part}"].dequantize()  # type: ignore[union-attr]
        np.testing.assert_allclose(each.dequantize(), want, atol=0.02)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("expert_gating_func", 3, "deepseek2.expert_gating_func: 3 .*1 or 2"),
        ("attention.temperature_scale", 0.1, "deepseek2.attention.temperature_scale: 0.1"),
        ("attention.key_length_mla", 16, "deepseek2.attention.key_length_mla: 16 .*from 17"),
        ("attention.kv_lora_rank", 40, "deepseek2.attention.kv_lora_rank: 40 .*a multiple of 32"),
        ("rope.dimension_count", None, "deepseek2.rope.dimension_count is missing"),
        ("rope.scaling.yarn_log_multiplier", "x", "deepseek2.rope.scaling.yarn_log_multiplier: 'x'"),
    ],
)
def test_keys_of_gguf_files_that_are_not_served_are_refused(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    architecture, more, renamed = moe_gguf.FILES["deepseek_v2"]
    path = moe_gguf.as_gguf(ZOO / "deepseek_v2", tmp_path / "x.gguf", architecture, more, renamed)
    with open_source(path) as source:
        metadata = dict(source.metadata) | {f"deepseek2.{key}": value}
        changed = Source(path, "gguf", metadata, {}, source.tensors)
        with pytest.raises(ModelError, match=message):
            read_spec(changed)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v2-lite", "deepseek_v3"])
def test_it_lowers_in_codes(name: str, quantization: str) -> None:
    """What reads one input reads it in one form, whatever its sizes."""
    with open_source(ZOO / name) as source:
        spec = read_spec(source)
        program = lower(spec, load(source, spec, quantization=quantization), kv_dtype="bfloat16", max_len=128)
    check(program)
    latent = next(op for op in program.ops if isinstance(op, Latent))
    assert latent.weight.layout is (Layout.W8 if quantization == "int8" else Layout.W4)
    assert program.kv == KvLayout(2, 1, 64, "bfloat16")


def spec_with(name: str, **changes: Any) -> Any:
    """The model of a folder of the zoo whose settings are changed."""
    values = json.loads((ZOO / name / "config.json").read_text())
    made = next(each for each in ARCHITECTURES if set(each.names) & set(values["architectures"]))
    return made.spec(Settings(Path("config.json"), {**values, **changes}))


def test_a_published_size_takes_what_its_latent_key_takes() -> None:
    sizes = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    spec = spec_with("deepseek_v2-lite", **sizes, num_attention_heads=16, num_hidden_layers=27)
    layout = kv_layout(spec, "bfloat16")
    assert layout.token_bytes == 27 * (512 + 64) * 2 * 2
    assert spec.layers[0].attn.scale == pytest.approx(192**-0.5)


def test_yarn_sharpens_all_dims() -> None:
    """mscale_all_dim of V2: 0.1 * 0.707 * ln 40 + 1, squared, on the scale."""
    stretch = {"type": "yarn", "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707}
    stretch |= {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
    spec = spec_with("deepseek_v2-lite", rope_parameters=None, rope_scaling=stretch, max_position_embeddings=163840)
    assert spec.layers[0].attn.scale == pytest.approx(42**-0.5 * (1 + 0.0707 * math.log(40)) ** 2)
    assert spec.layers[0].attn.rope.attention == pytest.approx(1)
    assert spec.max_len == 163840


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek_v2", {"kv_lora_rank": 48}, "kv_lora_rank: 48 .*a multiple of 32"),
        ("deepseek_v2", {"qk_nope_head_dim": 8}, "qk_nope_head_dim: 8 .*a multiple of 32"),
        ("deepseek_v2", {"v_head_dim": 40}, "v_head_dim: 40 .*a multiple of 32"),
        ("deepseek_v2", {"qk_rope_head_dim": 7}, "qk_rope_head_dim: 7 .*an even number"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method: 'noaux_tc'"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob: True"),
        ("deepseek_v2", {"n_group": 3}, "n_group: 3 .*a divisor of 8 experts"),
        ("deepseek_v2", {"topk_group": 1}, "topk_group: 1 .*groups that hold 3 experts, of 2 each"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func: 'softmax'"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave: False"),
        ("deepseek_v3", {"index_topk": 2048}, "index_topk: 2048"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq: 2"),
    ],
)
def test_settings_that_are_not_served_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_with(name, **changes)


def test_what_predicts_further_tokens_is_left_unread(tmp_path: Path) -> None:
    """V3's 62nd layer; one that is not behind the last is unexpected."""
    stored = zoo_gguf.read(ZOO / "deepseek_v3" / "model.safetensors")
    (tmp_path / "config.json").write_bytes((ZOO / "deepseek_v3" / "config.json").read_bytes())
    more = {
        f"model.layers.61.{name}.weight": np.ones((3, 5), np.float32) for name in ("eh_proj", "self_attn.kv_b_proj")
    }
    safetensors_file.write(tmp_path / "model.safetensors", stored | more)
    assert loaded(tmp_path).keys() == loaded(ZOO / "deepseek_v3").keys()
    safetensors_file.write(
        tmp_path / "model.safetensors", stored | {"model.layers.2.eh_proj.weight": more.popitem()[1]}
    )
    with pytest.raises(ModelError, match=r"unexpected: 'model\.layers\.2\.eh_proj"):
        loaded(tmp_path)


def test_a_matrix_of_other_shape_is_refused_by_name(tmp_path: Path) -> None:
    stored = zoo_gguf.read(LITE / "model.safetensors")
    stored[KV_B + ".weight"] = stored[KV_B + ".weight"][:-1]
    safetensors_file.write(tmp_path / "model.safetensors", stored)
    (tmp_path / "config.json").write_bytes((LITE / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"kv_b_proj.weight' has the shape \[383, 32\], expected \[384, 32\]"):
        loaded(tmp_path)
