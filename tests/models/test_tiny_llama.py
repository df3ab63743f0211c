"""Tiny Llamas, from the files that transformers wrote to its logits: loader, lowering and reference together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle_folder
import pytest

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path for path in (DATA / "llama").iterdir() if path.is_dir())
TOLERANCE = 1e-4


def generate(*arguments: object) -> None:
    """Run the fixture's script, in a process of its own: torch warns as it likes."""
    subprocess.run([sys.executable, DATA / "make_llama_fixtures.py", *map(str, arguments)], check=True)


def test_fixtures_are_all_there() -> None:
    assert [folder.name for folder in FOLDERS] == ["biased-untied", "grouped-tied", "llama3-wide-heads"]


@pytest.mark.parametrize("chunk", [1, 7, 32, 64, 1000])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_equal_those_of_transformers(folder: Path, chunk: int) -> None:
    assert max(float(logits.std()) for logits in oracle_folder.logits_of(folder)) > 1
    assert oracle_folder.largest_error(folder, chunk, seed=chunk) < TOLERANCE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_configuration_of_older_transformers_means_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert oracle_folder.largest_error(tmp_path / "old", 64) < TOLERANCE


@pytest.mark.oracle
def test_fixtures_made_anew_equal_the_committed_ones(tmp_path: Path) -> None:
    generate(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [folder.name for folder in FOLDERS]
    for folder in FOLDERS:
        anew = tmp_path / folder.name
        assert json.loads((anew / "prompts.json").read_text()) == json.loads((folder / "prompts.json").read_text())
        assert (anew / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        for found, committed in zip(oracle_folder.logits_of(anew), oracle_folder.logits_of(folder), strict=True):
            np.testing.assert_allclose(found, committed, atol=1e-5)


@pytest.mark.oracle
def test_models_of_random_shape_equal_transformers(tmp_path: Path) -> None:
    generate(tmp_path, 30, 1)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 30
    errors = {folder.name: oracle_folder.largest_error(folder, 19) for folder in folders}
    assert max(errors.values()) < TOLERANCE, errors
