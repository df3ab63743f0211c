"""A tiny model of each architecture, from the files that its makers' code wrote to its logits.

Loader, lowering and reference together; tests/data/make_zoo_fixtures.py says what each one is there for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import models_page
import moe_gguf
import numpy as np
import oracle_folder
import pytest
import zoo_gguf

from octavo.checkpoint.source import open_source
from octavo.models.registry import ARCHITECTURES

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path for path in (DATA / "zoo").iterdir() if path.is_dir())
ENCODERS = [folder for folder in FOLDERS if "bert" in folder.name]
DECODERS = [folder for folder in FOLDERS if folder not in ENCODERS]
TOLERANCE = 1e-4
STEPS = 8  # tokens that are decoded one by one


def architectures(folder: Path) -> list[str]:
    """What a folder says it is."""
    found: list[str] = json.loads((folder / "config.json").read_text())["architectures"]
    return found


def test_every_architecture_has_a_fixture() -> None:
    proven = {name for folder in FOLDERS for name in architectures(folder)} | {"LlamaForCausalLM"}
    assert [each.title for each in ARCHITECTURES if not proven & set(each.names)] == []


@pytest.mark.parametrize("folder", ENCODERS, ids=lambda folder: folder.name)
def test_vectors_equal_those_of_the_makers(folder: Path) -> None:
    """Every token sees the whole text: it is computed in one step."""
    assert min(float(vectors.std()) for vectors in oracle_folder.logits_of(folder)) > 0.5
    assert oracle_folder.largest_error(folder, 1000, last=0) < TOLERANCE


@pytest.mark.parametrize("chunk", [19, 1000])
@pytest.mark.parametrize("folder", DECODERS, ids=lambda folder: folder.name)
def test_logits_equal_those_of_the_makers(folder: Path, chunk: int) -> None:
    assert max(float(logits.std()) for logits in oracle_folder.logits_of(folder)) > 0.5
    assert oracle_folder.largest_error(folder, chunk, seed=chunk, last=STEPS) < TOLERANCE


def test_the_page_of_models_is_current() -> None:
    assert models_page.PAGE.read_text() == models_page.page(), "python tests/made/models_page.py writes it anew"


@pytest.mark.parametrize("name", zoo_gguf.ROWS)
def test_gguf_files_of_the_same_weights_answer_alike(name: str, tmp_path: Path) -> None:
    folder = DATA / "zoo" / name
    model = zoo_gguf.write(folder, zoo_gguf.ROWS[name], tmp_path / "x.gguf")
    chunk, last = (1000, 0) if folder in ENCODERS else (33, 5)
    assert oracle_folder.largest_error(folder, chunk, last=last, model=model) < TOLERANCE


def test_every_gguf_architecture_has_a_row() -> None:
    proven = {row.arch for row in zoo_gguf.ROWS.values()} | {"llama"}
    proven |= {arch for arch, _, _ in moe_gguf.FILES.values()}
    assert {name for each in ARCHITECTURES for name in each.gguf} - proven == set()


@pytest.mark.oracle
@pytest.mark.parametrize("name", zoo_gguf.ROWS)
def test_names_in_gguf_files_are_those_of_its_package(name: str, tmp_path: Path) -> None:
    import gguf

    row = zoo_gguf.ROWS[name]
    arch = next(arch for arch, spelled in gguf.MODEL_ARCH_NAMES.items() if spelled == row.arch)
    given = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[arch]}
    with open_source(zoo_gguf.write(DATA / "zoo" / name, row, tmp_path / "x.gguf")) as source:
        written = {re.sub(r"^blk\.\d+", "blk.{bid}", tensor).rpartition(".")[0] for tensor in source.tensors}
    assert written - given == set()


@pytest.fixture(scope="module")
def made_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All fixtures, made by one process: most of the time of a single one would go to its imports."""
    made = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, DATA / "make_zoo_fixtures.py", made], check=True)
    return made


@pytest.mark.oracle
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_fixtures_made_anew_equal_the_committed_ones(folder: Path, made_anew: Path) -> None:
    anew = made_anew / folder.name
    assert json.loads((anew / "prompts.json").read_text()) == json.loads((folder / "prompts.json").read_text())
    assert (anew / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    for found, committed in zip(oracle_folder.logits_of(anew), oracle_folder.logits_of(folder), strict=True):
        np.testing.assert_allclose(found, committed, atol=1e-5)
