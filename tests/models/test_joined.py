"""What a file stores as several tensors and a model reads as one: OPT-350m's tables, StableLM-2-12B's norms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors_file
import zoo_gguf

from octavo.checkpoint.source import open_source
from octavo.compress.model import open_plain
from octavo.core.errors import ModelError
from octavo.kernels.weight import Weight
from octavo.models.load import Weights, footprint, load
from octavo.models.registry import read_spec

ZOO = Path(__file__).parents[1] / "data" / "zoo"
TABLE, WIDER, NARROWER = (f"model.decoder.{name}.weight" for name in ("embed_tokens", "project_in", "project_out"))
NORMS = "model.layers.0.self_attn.q_layernorm.norms."


def changed(tmp_path: Path, name: str, tensors: dict) -> Path:
    """A model of the zoo with other tensors; None: without it."""
    stored = zoo_gguf.read(ZOO / name / "model.safetensors") | tensors
    kept = {key: value for key, value in stored.items() if value is not None}
    (tmp_path / "config.json").write_bytes((ZOO / name / "config.json").read_bytes())
    safetensors_file.write(tmp_path / "model.safetensors", kept)
    return tmp_path


def loaded(path: Path) -> Weights:
    with open_source(path) as source:
        spec = read_spec(source)
        weights = load(source, spec, dtype="float32")
        assert sum(footprint(source, spec, "float32").values()) == sum(weight.nbytes for weight in weights.values())
    return weights


def test_tables_become_as_wide_as_the_model(tmp_path: Path) -> None:
    stored = zoo_gguf.read(ZOO / "opt-350m" / "model.safetensors")
    head = np.random.default_rng(0).normal(0, 1, stored[TABLE].shape).astype(np.float32)
    for extra, behind in (({}, stored[TABLE]), ({"lm_head.weight": head}, head)):
        weights = loaded(changed(tmp_path, "opt-350m", extra))
        for name, wanted in (("embed", stored[TABLE] @ stored[WIDER].T), ("head", behind @ stored[NARROWER])):
            weight = weights[name]
            assert isinstance(weight, Weight)
            np.testing.assert_allclose(weight.dequantize(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({WIDER: np.zeros((64, 41), np.float32)}, r"cannot be multiplied with .*project_in.weight' \[64, 41\]"),
        ({NARROWER: np.zeros(40, np.float32)}, r"cannot be multiplied with .*project_out.weight' \[40\]"),
        (
            {WIDER: np.zeros((32, 40), np.float32)},
            r"embed_tokens.weight' has the shape \[96, 32\], expected \[96, 64\]",
        ),
        ({WIDER: np.zeros((64, 40), np.int32)}, r"project_in.weight' is stored as I32; .* as F32, F16, BF16"),
        ({NARROWER: None}, "project_in"),
        ({WIDER: np.full((64, 40), np.nan, np.float32)}, "NaN"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(changed(tmp_path, "opt-350m", tensors))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{NORMS}2.weight": None}, r"q_layernorm.weight': rows 0, 1, 3; they are numbered from 0 on"),
        ({f"{NORMS}3.weight": None}, r"q_layernorm.weight' has the shape \[3, 24\], expected \[4, 24\]"),
        ({f"{NORMS}3.weight": np.ones(23, np.float32)}, "q_layernorm.weight': rows of several types or shapes"),
        ({f"{NORMS}3.weight": np.ones(24, np.float16)}, "q_layernorm.weight': rows of several types or shapes"),
        ({f"{NORMS}03.weight": np.ones(24, np.float32)}, r"unexpected: '.*norms.03.weight'"),
    ],
)
def test_norms_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(changed(tmp_path, "stablelm-2-12b", tensors))


def test_writing_a_quantized_folder_of_them_is_refused() -> None:
    with open_source(ZOO / "opt-350m") as source, pytest.raises(ModelError, match="is put together of others"):
        open_plain(source)
