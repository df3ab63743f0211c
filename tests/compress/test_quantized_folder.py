"""A quantized folder: the codes come back as they were found, other engines read it, and nothing half is left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import oracle_folder
import pytest
import quantized_model
import tiny_llama
from quantized_model import numbers, quantized, texts

from octavo.checkpoint.source import open_source
from octavo.compress import quantize as quantize_module
from octavo.core.errors import InvalidValue, ModelError
from octavo.kernels.weight import Layout, Weight
from octavo.models.load import load
from octavo.models.registry import read_spec
from octavo.quant.search import Coded

ZOO = Path(__file__).parents[1] / "data" / "zoo"
WIDE = {"width": 96, "inner": 160, "heads": 4, "kv_heads": 2, "head_dim": 32}
RECIPES = [
    {"scheme": "int4"},
    {"scheme": "int4", "group": 32},
    {"scheme": "int4", "symmetric": False},
    {"scheme": "int8"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_llama.write_folder(tmp_path / "plain", vocab=256, tokenizer=True, **WIDE)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Coded]:
    """The codes that are written, by stored name."""
    kept: dict[str, Coded] = {}
    before = quantize_module.coded_tensors

    def coded_tensors(name, coded, scale_type):
        kept[name] = coded
        return before(name, coded, scale_type)

    monkeypatch.setattr(quantize_module, "coded_tensors", coded_tensors)
    return kept


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("calibrated", [False, True])
def test_codes_come_back_as_they_were_found(folder, tmp_path, found, recipe, calibrated) -> None:
    quantized(folder, tmp_path / "out", texts(256) if calibrated else None, **recipe)
    back, plain = numbers(tmp_path / "out"), numbers(folder)
    assert len(found) == 14
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate", "up_proj": "up"}
    for name, coded in found.items():
        _, _, layer, _, part, _ = name.split(".")
        key = f"layers.{layer}.{names.get(part, 'down')}"
        if recipe.get("symmetric", True):
            np.testing.assert_array_equal(back.pop(key), coded.values())
        else:  # the minimum, -scale * zero, is rounded once more
            np.testing.assert_allclose(back.pop(key), coded.values(), atol=np.abs(coded.values()).max() * 2**-10)
    for key, values in back.items():
        if "norm" not in key or not calibrated:
            np.testing.assert_array_equal(values, plain[key])


def test_the_folder_lands_on_integer_kernels(folder, tmp_path) -> None:
    for recipe, layout in zip(RECIPES, (Layout.W4, Layout.W4, Layout.W4M, Layout.W8), strict=True):
        out = tmp_path / str(recipe)
        quantized(folder, out, **recipe)
        with open_source(out) as source:
            weights = load(source, read_spec(source))
        assert {w.layout for key, w in weights.items() if isinstance(w, Weight) and key != "embed"} == {layout}


def test_files_beside_the_weights_come_along(folder, tmp_path) -> None:
    report = quantized(folder, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    declared = config.pop("quantization_config")
    assert config == json.loads((folder / "config.json").read_text())
    assert declared["quant_method"] == "compressed-tensors" and declared["format"] == "pack-quantized"
    # 96 inputs and 160: groups of 32; 128: groups of 64
    sizes = {group["weights"]["group_size"]: group["targets"] for group in declared["config_groups"].values()}
    assert sizes[64] == [r"re:.*\.o_proj$"] and len(sizes[32]) == 6
    assert declared["ignore"] == ["lm_head"]
    assert report.bytes_after < report.bytes_before
    assert report.bytes_before == sum(t.nbytes for t in open_source(folder).tensors.values())
    assert report.bytes_after == sum(t.nbytes for t in open_source(tmp_path / "out").tensors.values())
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "out"}


def test_perplexity_is_that_of_the_two_folders(folder, tmp_path) -> None:
    judged = texts(256, 3, seed=5)
    report = quantized(folder, tmp_path / "out", texts(256), judged)
    for path, told in ((folder, report.perplexity_before), (tmp_path / "out", report.perplexity_after)):
        assert told == pytest.approx(oracle_folder.perplexity(path, judged), rel=2e-4)
    assert report.perplexity_before != report.perplexity_after


def test_each_step_of_calibration_lowers_the_error(tmp_path) -> None:
    """On inputs of unequal size and with much in common, as real ones are."""
    folder = tiny_llama.write_folder(tmp_path / "plain", vocab=64, **(WIDE | {"width": 128, "inner": 256}))
    calibration = np.sort(texts(64, 16), axis=1)
    means = []
    for number, (given, recipe) in enumerate(
        [(calibration, {"gptq": False, "awq": False}), (calibration, {"awq": False}), (calibration, {})]
    ):
        report = quantized(folder, tmp_path / f"out{number}", given, **recipe)
        means.append(np.mean(list(report.errors.values())))
    assert means[1] < 0.9 * means[0] and means[2] < 1.02 * means[1]


@pytest.mark.parametrize("name", ["qwen2", "phi3", "gpt_neox", "gemma2", "llama-yarn"])
def test_other_architectures_are_quantized_through_the_same_spec(name, tmp_path) -> None:
    """Fused, biased, parallel, with norms that add 1: codes stand for nearly the same numbers."""
    with open_source(ZOO / name) as source:
        vocab = read_spec(source).vocab
    report = quantized(ZOO / name, tmp_path / "out", texts(vocab), texts(vocab, 2, seed=1), scheme="int8")
    was, back = numbers(ZOO / name), numbers(tmp_path / "out")
    assert was.keys() == back.keys() and report.errors
    assert max(report.errors.values()) < 0.02
    assert report.perplexity_after == pytest.approx(report.perplexity_before, rel=0.02)


MIXTURES = [
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "glm4_moe",
]  # with a shared expert, gated and not; dense layers


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_mixtures_are_quantized_expert_by_expert(name, scheme, tmp_path) -> None:
    """Routers stay as they are; of a few tokens, some experts see none."""
    with open_source(ZOO / name) as source:
        spec = read_spec(source)
    report = quantized(ZOO / name, tmp_path / "out", texts(spec.vocab, 1, 8), scheme=scheme)
    assert max(report.errors.values()) < (0.02 if scheme == "int8" else 0.2)
    was, back = numbers(ZOO / name), numbers(tmp_path / "out")
    routers = [key for key in was if key.endswith((".router", ".shared_gate"))]
    assert routers and all(np.array_equal(was[key], back[key]) for key in routers)
    with open_source(tmp_path / "out") as source:
        weights = load(source, read_spec(source))
    experts = {weights[key].layout for key in weights if key.endswith(("expert_gate", "expert_up"))}
    assert experts == {Layout.W8 if scheme == "int8" else Layout.W4}


def test_each_expert_is_rounded_by_the_tokens_that_come_to_it(tmp_path, monkeypatch) -> None:
    """Each token comes to `top` experts, and the shared one reads all."""
    seen = {}
    before = quantize_module._Job._code

    def code(self, name, values, grid, hessian, scales):
        seen[name.removeprefix("model.layers.")] = hessian
        return before(self, name, values, grid, hessian, scales)

    monkeypatch.setattr(quantize_module._Job, "_code", code)
    with open_source(ZOO / "qwen2_moe") as source:
        spec = read_spec(source)
    report = quantized(ZOO / "qwen2_moe", tmp_path / "b", texts(spec.vocab))
    plain = quantized(ZOO / "qwen2_moe", tmp_path / "a", texts(spec.vocab), gptq=False, awq=False)
    assert np.mean(list(report.errors.values())) < 0.95 * np.mean(list(plain.errors.values()))
    for layer, moe in enumerate(layer.ffn for layer in spec.layers):
        gates = [seen[f"{layer}.mlp.experts.{expert}.gate_proj.weight"] for expert in range(moe.experts)]
        known = [hessian for hessian in gates if hessian is not None]
        whole = seen[f"{layer}.mlp.shared_expert.gate_proj.weight"]
        assert len({hessian.tobytes() for hessian in known}) == len(known) > moe.top
        np.testing.assert_allclose(sum(known), moe.top * whole, rtol=1e-4, atol=1e-3)


def test_scales_move_from_the_norm_into_the_matrices(tmp_path) -> None:
    """The norm's numbers times the matrix's columns stay what they were, but for rounding of 8 bits."""
    folder = tiny_llama.write_folder(tmp_path / "plain", vocab=64, width=64, inner=64, heads=2, kv_heads=2, head_dim=32)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    with open_source(folder) as source:
        tensor = source.tensors["model.layers.0.input_layernorm.weight"]
        loud = np.where(np.arange(64) % 16 == 3, 40, 1).astype(np.float32)
        data[tensor.start : tensor.start + tensor.nbytes] = (np.frombuffer(tensor.read(), np.float32) * loud).tobytes()
    path.write_bytes(data)
    quantized(folder, tmp_path / "out", texts(64), scheme="int8")
    was, now = numbers(folder), numbers(tmp_path / "out")
    assert not np.array_equal(was["layers.0.attn_norm"], now["layers.0.attn_norm"])
    for part in "qkv":
        before, after = (w[f"layers.0.{part}"] * w["layers.0.attn_norm"] for w in (was, now))
        assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda folder, out: out.mkdir(), "is there already"),
        (lambda folder, out: out.parent.joinpath("blocked").write_text(""), None),
        (lambda folder, out: (folder / "model.safetensors").write_bytes(b"\0" * 4), "damaged"),
    ],
    ids=["there", "fine", "damaged"],
)
def test_what_cannot_be_done_is_said_in_one_line(folder, tmp_path, broken, told) -> None:
    broken(folder, tmp_path / "out")
    if told is None:
        assert quantized(folder, tmp_path / "out").errors
        return
    with pytest.raises(ModelError, match=told) as error:
        quantized(folder, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_what_is_quantized_already_is_refused(folder, tmp_path) -> None:
    quantized(folder, tmp_path / "out")
    with pytest.raises(ModelError, match="quantized already"):
        quantized(tmp_path / "out", tmp_path / "again")
    gguf = tiny_llama.write_gguf(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="GGUF"):
        quantized(gguf, tmp_path / "again")
    with pytest.raises(ModelError, match="inputs, outputs"):
        quantized(ZOO / "gpt2", tmp_path / "again")
    with pytest.raises(ModelError, match="experts"):
        quantized(ZOO / "gpt_oss", tmp_path / "again")
    with pytest.raises(ModelError, match="gives vectors, not text; load it with --quantize instead"):
        quantized(ZOO.parent / "sentences" / "cls-dense", tmp_path / "again")
    with pytest.raises(ModelError, match="gives scores of labels, not text"):
        quantized(ZOO.parent / "classifiers" / "llama", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("field", "value"), [("scheme", "int3"), ("group", 48), ("damping", 0.0), ("damping", 2.0)])
def test_a_recipe_names_the_field_at_fault(field, value) -> None:
    with pytest.raises(InvalidValue) as error:
        quantized_model.QuantizeConfig(**{field: value})
    assert error.value.field == field
    with pytest.raises(InvalidValue, match="int4"):
        quantized_model.QuantizeConfig(scheme="int8", symmetric=False)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_leaves_nothing_behind(folder, tmp_path, monkeypatch, call) -> None:
    calls = []

    def full(*_: object) -> None:
        calls.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ModelError, match="out: cannot be written: No space left on device"):
        quantized(folder, tmp_path / "out")
    assert calls and {path.name for path in tmp_path.iterdir()} == {"plain"}


def test_what_a_killed_process_left_is_removed_by_the_next(folder, tmp_path) -> None:
    left, busy = tmp_path / ".out.0000aaaa.part", tmp_path / ".out.0000bbbb.part"
    for path in (left, busy):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    with (busy / "model.safetensors").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        quantized(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "out", busy.name}


def test_numbers_that_are_none_are_refused_with_their_tensor(folder, tmp_path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    with open_source(folder) as source:
        start = source.tensors["model.layers.1.mlp.up_proj.weight"].start
    data[start : start + 4] = np.array([np.nan], np.float32).tobytes()
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*NaN"):
        quantized(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"plain"}


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if "symmetric" not in recipe], ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "gpt_neox"])
def test_transformers_reads_the_folder_and_gives_our_logits(name, recipe, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    if name == "llama":
        folder = tiny_llama.write_folder(tmp_path / "plain", vocab=256, tied=False, **WIDE)
    else:
        folder = shutil.copytree(ZOO / name, tmp_path / "plain")
    with open_source(folder) as source:
        vocab = read_spec(source).vocab
    ids = texts(vocab, 2, 24, seed=9)
    quantized(folder, tmp_path / "out", texts(vocab), **recipe)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    ours = oracle_folder.plain_logits(tmp_path / "out", ids)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_compressed_tensors_unpacks_the_numbers_that_we_do(recipe, stored, tmp_path, found) -> None:
    """Zero points too, with which transformers 5 does not load a model."""
    torch = pytest.importorskip("torch")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file

    folder = tiny_llama.write_folder(tmp_path / "plain", vocab=256, dtype=stored, **WIDE)
    quantized(folder, tmp_path / "out", texts(256), **recipe)
    config = QuantizationConfig.model_validate(
        json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    )
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    compressor = BaseCompressor.load_from_registry("pack-quantized")
    for name, coded in found.items():
        at = name.removesuffix("weight")
        (scheme,) = (
            scheme
            for scheme in config.config_groups.values()
            if any(target == "Linear" or re.match(target[3:], at[:-1]) for target in scheme.targets)
        )
        parts = {part.removeprefix(at): tensor for part, tensor in tensors.items() if part.startswith(at)}
        theirs = compressor.decompress(parts, scheme)["weight"].to(torch.float32).numpy()
        if stored == "float32":
            np.testing.assert_array_equal(theirs, coded.values())
        else:  # they multiply in the type of the scales
            np.testing.assert_array_equal(theirs, coded.values().astype(np.float16).astype(np.float32))
