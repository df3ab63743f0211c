"""A tiny model of each architecture, from the files that its makers' code wrote to its logits.

Loader, lowering and reference together; tests/data/make_zoo_fixtures.py says what each one is there for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle_folder
import pytest

from octavo.models.registry import ARCHITECTURES

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path for path in (DATA / "zoo").iterdir() if path.is_dir())
TOLERANCE = 1e-4
STEPS = 8  # tokens that are decoded one by one


def architectures(folder: Path) -> list[str]:
    """What a folder says it is."""
    found: list[str] = json.loads((folder / "config.json").read_text())["architectures"]
    return found


def test_every_architecture_has_a_fixture() -> None:
    proven = {name for folder in FOLDERS for name in architectures(folder)} | {"LlamaForCausalLM"}
    assert [each.title for each in ARCHITECTURES if not proven & set(each.names)] == []


@pytest.mark.parametrize("chunk", [19, 1000])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_equal_those_of_the_makers(folder: Path, chunk: int) -> None:
    assert max(float(logits.std()) for logits in oracle_folder.logits_of(folder)) > 0.5
    assert oracle_folder.largest_error(folder, chunk, seed=chunk, last=STEPS) < TOLERANCE


@pytest.mark.oracle
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_fixtures_made_anew_equal_the_committed_ones(folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "make_zoo_fixtures.py", tmp_path, folder.name], check=True)
    anew = tmp_path / folder.name
    assert json.loads((anew / "prompts.json").read_text()) == json.loads((folder / "prompts.json").read_text())
    assert (anew / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    for found, committed in zip(oracle_folder.logits_of(anew), oracle_folder.logits_of(folder), strict=True):
        np.testing.assert_allclose(found, committed, atol=1e-5)
