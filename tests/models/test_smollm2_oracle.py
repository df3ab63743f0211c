"""The default model: the committed greedy answers are those of transformers, and of our reference executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from op_cases import Texts

from octavo.checkpoint import hub
from octavo.checkpoint.source import open_source
from octavo.cli import environment
from octavo.models.load import load
from octavo.models.lower import lower
from octavo.models.registry import read_spec
from octavo.program.reference import Reference

pytestmark = pytest.mark.oracle

DATA = Path(__file__).parents[1] / "data"
ANSWERS = json.loads((DATA / "smollm2_greedy.json").read_text())


@pytest.fixture(scope="module")
def model_path() -> Path:
    """The GGUF file, fetched once."""
    return hub.resolve("smollm2-135m", cache_dir=environment.cache_dir(os.environ, None))


def test_answers_made_anew_equal_the_committed_ones(model_path: Path, tmp_path: Path) -> None:
    anew = tmp_path / "anew.json"
    subprocess.run([sys.executable, DATA / "make_smollm2_fixture.py", model_path, anew], check=True)
    found = json.loads(anew.read_text())
    assert [answer["name"] for answer in found] == [answer["name"] for answer in ANSWERS]
    for answer, committed in zip(found, ANSWERS, strict=True):
        assert (answer["ids"], answer["tokens"]) == (committed["ids"], committed["tokens"])
        np.testing.assert_allclose(answer["gaps"], committed["gaps"], atol=1e-3)


def test_exact_reference_repeats_transformers(model_path: Path) -> None:
    """Given each answer so far, the next token is the likeliest, and as clearly so."""
    assert len(ANSWERS) == 20
    source = open_source(model_path)
    spec = read_spec(source)
    program = lower(spec, load(source, spec), kv_dtype="float32", max_len=256, exact=True)
    source.close()
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [np.array(answer["ids"] + answer["tokens"][:-1], np.int32) for answer in ANSWERS])
    executor = Reference(program)
    executor.allocate(texts.pages)
    for slot, answer in enumerate(ANSWERS):
        prompt, steps = len(answer["ids"]), len(answer["tokens"])
        executor.run(texts.batch(rng, [(slot, 0, prompt - 1)]))
        logits = executor.logits(texts.batch(rng, [(slot, prompt - 1, steps)], more=1))
        best = np.sort(logits, axis=1)[:, -2:]
        assert logits.argmax(axis=1).tolist() == answer["tokens"], answer["name"]
        np.testing.assert_allclose(best[:, 1] - best[:, 0], answer["gaps"], atol=1e-3)
