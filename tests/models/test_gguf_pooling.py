"""GGUF files that say how to pool: `{arch}.pooling_type` of llama.cpp, 1 to 3; others are refused, none is the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from tiny_engine import engine_of, gathered, pooled_of, program_of

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.core.request import PoolingParams, Request
from octavo.models.registry import read_spec
from octavo.program.ops import Head

PROMPT = list(range(3, 43))


def written(folder: Path, kind: int | None) -> Path:
    """A decoder whose file says so."""
    return tiny_llama.write_gguf(folder / f"{kind}.gguf", dtype="F32", metadata={"llama.pooling_type": kind})


def given(path: Path, params: PoolingParams) -> np.ndarray:
    program, pooling, info = pooled_of(path)
    engine = engine_of(program, "cpu", pooling=pooling, info=info)
    output = gathered(engine, [Request(id="a", prompt=PROMPT, pooling=params)])["a"]
    engine.close()
    return np.frombuffer(output.vector, np.float32)


def kind_of(path: Path, runner: str) -> str | None:
    with open_source(path) as source:
        pooler = read_spec(source, runner).pooler
    return None if pooler is None else pooler.kind


def test_vectors_are_pooled_as_the_file_says(tmp_path: Path) -> None:
    each = given(written(tmp_path, None), PoolingParams(task="token_embed", use_activation=False)).reshape(
        len(PROMPT), -1
    )
    for kind, wanted in ((1, each.mean(axis=0)), (2, each[0]), (3, each[-1]), (None, each[-1])):
        found = given(written(tmp_path, kind), PoolingParams())
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_a_file_that_says_how_to_pool_is_made_to(tmp_path: Path) -> None:
    for kind, wanted in ((None, None), (0, None), (1, "mean"), (2, "cls"), (3, "last")):
        assert kind_of(written(tmp_path, kind), "auto") == wanted
    assert kind_of(written(tmp_path, 3), "generate") is None
    assert kind_of(written(tmp_path, None), "pooling") == "last"
    assert isinstance(program_of(written(tmp_path, 0)).ops[-1], Head)


@pytest.mark.parametrize("kind", [4, 99, "mean"])
def test_other_kinds_are_refused_by_name(tmp_path: Path, kind: object) -> None:
    path = tiny_llama.write_gguf(tmp_path / "m.gguf", metadata={"llama.pooling_type": kind})
    with pytest.raises(
        ModelError, match=r"llama\.pooling_type: (4|99|mean) is not supported; 1 \(mean\), 2 \(cls\)"
    ) as told:
        kind_of(path, "auto")
    assert "\n" not in str(told.value)
    assert kind_of(path, "generate") is None
