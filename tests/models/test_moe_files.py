"""Mixtures of experts as GGUF files and as MXFP4 folders have them: the same models as the folders of the zoo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import moe_gguf
import numpy as np
import oracle_folder
import pytest
import safetensors_file
import zoo_gguf
from op_cases import Texts

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.models.load import footprint, load
from octavo.models.lower import lower
from octavo.models.registry import ARCHITECTURES, read_spec
from octavo.models.settings import Settings
from octavo.models.spec import Moe
from octavo.program.ops import MoeIn, MoeOut, Route
from octavo.program.reference import Reference

ZOO = Path(__file__).parents[1] / "data" / "zoo"


@pytest.mark.parametrize("name", moe_gguf.FILES)
def test_a_gguf_file_gives_the_logits_of_the_folder(name: str, tmp_path: Path) -> None:
    architecture, more, renamed = moe_gguf.FILES[name]
    folder = tmp_path / name
    folder.mkdir()
    for file in ("config.json", "model.safetensors", "prompts.json", "logits.safetensors"):
        (folder / file).write_bytes((ZOO / name / file).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"swiglu_limit": 7.0, "sliding_window": config.get("sliding_window") if name == "gpt_oss" else None}
    if "mscale" in config["rope_parameters"]:  # files have one number for both
        config["rope_parameters"] |= {"mscale": 0.7, "mscale_all_dim": 0.7}
    (folder / "config.json").write_text(json.dumps(config))
    path = moe_gguf.as_gguf(folder, tmp_path / "x.gguf", architecture, more, renamed)
    wanted, found = (answers(each, folder) for each in (folder, path))
    for want, got in zip(wanted, found, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def answers(path: Path, prompts: Path) -> list[np.ndarray]:
    """The logits of the prompts, by the reference executor."""
    rng = np.random.default_rng(0)
    executor = Reference(oracle_folder.program_of(path))
    texts = Texts.placed(rng, oracle_folder.prompts_of(prompts), groups=executor.program.kv.groups)
    executor.allocate(texts.pages)
    return [
        executor.logits(texts.batch(rng, [(slot, 0, len(tokens))], more=1)) for slot, tokens in enumerate(texts.tokens)
    ]


CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def test_a_folder_of_mxfp4_experts_equals_one_of_their_numbers(tmp_path: Path) -> None:
    """As the makers of gpt-oss store them: rows of gate and up by turns, [experts, outputs, inputs]."""
    rng, stored = np.random.default_rng(0), zoo_gguf.read(ZOO / "gpt_oss" / "model.safetensors")
    plain, packed = dict(stored), dict[str, np.ndarray]()
    for name, values in stored.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = values
            continue
        experts, inputs, outputs = values.shape
        codes = rng.integers(0, 16, (experts, outputs, inputs // 32, 32), dtype=np.uint8)
        scales = rng.integers(122, 126, (experts, outputs, inputs // 32), dtype=np.uint8)
        numbers = np.where(codes & 8, -1, 1) * CODES[codes & 7] * 2.0 ** (scales[..., None].astype(np.float32) - 127)
        plain[name] = np.ascontiguousarray(numbers.reshape(experts, outputs, inputs).swapaxes(1, 2), np.float32)
        packed[name + "_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
        packed[name + "_scales"] = scales
    config = json.loads((ZOO / "gpt_oss" / "config.json").read_text())
    found = []
    for kind, tensors in (("plain", plain), ("packed", packed)):
        folder = tmp_path / kind
        folder.mkdir()
        safetensors_file.write(folder / "model.safetensors", tensors)
        settings = config | ({"quantization_config": {"quant_method": "mxfp4"}} if kind == "packed" else {})
        (folder / "config.json").write_text(json.dumps(settings))
        found.append(answers(folder, ZOO / "gpt_oss"))
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("name", ["mixtral", "granitemoe", "gpt_oss", "qwen2_moe"])
def test_the_footprint_counts_every_expert(name: str) -> None:
    source = open_source(ZOO / name)
    try:
        spec = read_spec(source)
        sizes, weights = footprint(source, spec), load(source, spec)
        assert sum(sizes.values()) == sum(weight.nbytes for weight in weights.values())
        program = lower(spec, weights, kv_dtype="bfloat16", max_len=64)
    finally:
        source.close()
    held = 0
    for op in program.ops:
        if isinstance(op, Route):
            held += op.weight.nbytes + (op.gate.nbytes if op.gate else 0)
        elif isinstance(op, MoeIn):
            held += sum(each.gate.nbytes + each.up.nbytes for each in op.experts if each.gate)
        elif isinstance(op, MoeOut):
            held += sum(weight.nbytes for weight in op.weights)
    assert sizes["experts"] == held > 0


def test_a_mixture_beside_attention_is_refused() -> None:
    source = open_source(ZOO / "mixtral")
    try:
        spec = read_spec(source)
        weights = load(source, spec)
    finally:
        source.close()
    layers = tuple(replace(layer, parallel=True) for layer in spec.layers)
    with pytest.raises(ModelError, match=r"layers\.0\.ffn: a mixture of experts beside attention"):
        lower(replace(spec, layers=layers), weights, kv_dtype="bfloat16", max_len=64)


def spec_with(name: str, **changes: Any) -> Any:
    """The layers of a folder of the zoo whose settings are changed."""
    values = json.loads((ZOO / name / "config.json").read_text())
    made = next(each for each in ARCHITECTURES if set(each.names) & set(values["architectures"]))
    return made.spec(Settings(Path("config.json"), {**values, **changes}))


def test_which_layers_are_mixtures() -> None:
    def mixed(**changes: Any) -> list[int]:
        layers = spec_with("qwen3_moe", num_hidden_layers=6, **changes).layers
        return [index for index, layer in enumerate(layers) if isinstance(layer.ffn, Moe)]

    assert mixed() == [1, 3, 5]
    assert mixed(decoder_sparse_step=3, mlp_only_layers=[2]) == [5]
    assert mixed(decoder_sparse_step=1, mlp_only_layers=[0, 4]) == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3_moe", {"mlp_only_layers": [9]}, "mlp_only_layers: .*numbers of layers, from 0 to 1"),
        ("qwen3_moe", {"num_experts_per_tok": 8}, "num_experts_per_tok: 8 .*from 1 to 7"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts: 0"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv: 8.0"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "swiglu_alpha: 1.0"),
    ],
)
def test_settings_that_are_not_served_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_with(name, **changes)


def test_a_tensor_of_other_shape_is_refused_by_name(tmp_path: Path) -> None:
    stored = zoo_gguf.read(ZOO / "qwen3_moe-stacked" / "model.safetensors")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stored[name] = stored[name][:-1]
    safetensors_file.write(tmp_path / "model.safetensors", stored)
    (tmp_path / "config.json").write_bytes((ZOO / "qwen3_moe-stacked" / "config.json").read_bytes())
    source = open_source(tmp_path)
    try:
        with pytest.raises(ModelError, match=r"gate_up_proj' has the shape \[8, 80, 64\], expected \[9, 80, 64\]"):
            load(source, read_spec(source))
    finally:
        source.close()
