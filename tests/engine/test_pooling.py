"""Requests that pool: scores of the makers, the same bits however batched, cut and cached, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from tiny_engine import engine_of, gathered, pooled_of, program_of

from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import PoolingParams, Request, SamplingParams
from octavo.engine.engine import Engine

DATA = Path(__file__).parents[1] / "data"
CLASSIFIERS = sorted((DATA / "classifiers").iterdir())
RAW = PoolingParams(use_activation=False)
TOLERANCE = 1e-4


def vectors(engine: Engine, requests: list[Request]) -> list[np.ndarray]:
    """What each request is given, in order; the engine is closed."""
    found = gathered(engine, requests)
    engine.close()
    assert all(output.finish == "stop" and not output.tokens for output in found.values())
    return [np.frombuffer(found[request.id].vector, np.float32) for request in requests]


def texts(lengths: tuple[int, ...], params: PoolingParams = RAW, vocab: int = 96) -> list[Request]:
    """Random ones; all begin alike."""
    rng = np.random.default_rng(5)
    shared = rng.integers(3, vocab, max(lengths)).tolist()
    return [
        Request(id=str(i), prompt=shared[: n // 2] + rng.integers(3, vocab, n - n // 2).tolist(), pooling=params)
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("executor", ["reference", "cpu"])
@pytest.mark.parametrize("folder", CLASSIFIERS, ids=lambda folder: folder.name)
def test_scores_equal_those_of_the_makers(folder: Path, executor: str) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    program, pooling, info = pooled_of(folder)
    assert len(info.labels) == len(expected[0]["scores"])
    requests = [
        Request(id=str(i), prompt=entry["ids"], second=entry["second"], pooling=RAW) for i, entry in enumerate(expected)
    ]
    for given, entry in zip(
        vectors(engine_of(program, executor, pooling=pooling, info=info), requests), expected, strict=True
    ):
        np.testing.assert_allclose(given, entry["scores"], atol=TOLERANCE)


@pytest.mark.oracle
def test_classifiers_made_anew_equal_the_committed_ones(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DATA / "make_classifier_fixtures.py", tmp_path], check=True)
    for folder in CLASSIFIERS:
        made = tmp_path / folder.name
        assert (made / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        for new, old in zip(
            *(json.loads((path / "expected.json").read_text()) for path in (made, folder)), strict=True
        ):
            assert new["ids"] == old["ids"]
            np.testing.assert_allclose(new["scores"], old["scores"], atol=1e-5)


@pytest.mark.parametrize("kind", ["last", "cls", "mean", "all"])
def test_decoders_give_the_same_bits_alone_batched_chunked_and_cached(kind: str) -> None:
    params = PoolingParams(task="token_embed") if kind == "all" else PoolingParams(task="embed")
    program, pooling, info = pooled_of(
        DATA / "zoo" / "qwen3", exact=False, **({} if kind == "all" else {"kind": kind, "normalize": True})
    )
    requests = texts((1, 31, 32, 33, 64, 100, 128), params)
    made = {"pooling": pooling, "info": info}
    alone = [vectors(engine_of(program, "cpu", **made), [request])[0] for request in requests]
    for step_tokens, seqs, cache in ((512, 16, False), (16, 3, False), (48, 4, kind in ("last", "all"))):
        engine = engine_of(program, "cpu", step_tokens=step_tokens, seqs=seqs, prefix_cache=cache, **made)
        for given, wanted in zip(vectors(engine, requests), alone, strict=True):
            assert np.array_equal(given.view(np.uint32), wanted.view(np.uint32))


def test_a_cached_prefix_saves_computing_and_changes_nothing() -> None:
    program, pooling, info = pooled_of(DATA / "classifiers" / "llama", exact=False)
    engine = engine_of(program, "cpu", pooling=pooling, info=info)
    request = texts((80,), PoolingParams())[0]
    first = gathered(engine, [request])["0"]
    again = gathered(engine, [request])["0"]
    assert (first.cached, again.cached) == (0, 79)
    assert first.vector == again.vector
    engine.close()


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_encoders_compute_texts_whole_in_any_mixture(name: str) -> None:
    program, pooling, info = pooled_of(DATA / "zoo" / name, exact=False, max_len=90)
    requests = texts((90, 1, 31, 89, 33, 2, 64, 90, 7), PoolingParams())
    made = {"pooling": pooling, "info": info}
    alone = [vectors(engine_of(program, "cpu", **made), [request])[0] for request in requests]
    for step_tokens, seqs in ((512, 16), (90, 3), (100, 2)):
        engine = engine_of(program, "cpu", step_tokens=step_tokens, seqs=seqs, **made)
        for given, wanted in zip(vectors(engine, requests), alone, strict=True):
            assert np.array_equal(given.view(np.uint32), wanted.view(np.uint32))


def test_a_long_text_is_not_passed_by_shorter_ones_for_ever() -> None:
    program, pooling, info = pooled_of(DATA / "zoo" / "bert", max_len=90)
    engine = engine_of(program, "cpu", step_tokens=90, seqs=4, pooling=pooling, info=info)
    for number, request in enumerate(texts((5, 90, *([3] * 12)), PoolingParams())):
        engine.add(request)
        if number == 3:
            ended = [output.id for output in engine.step()]
    ended += [output.id for _ in range(2) for output in engine.step()]
    assert "1" in ended
    engine.close()


@pytest.mark.parametrize("executor", ["reference", "cpu"])
def test_activations_dimensions_and_lengths(executor: str) -> None:
    folder = DATA / "classifiers" / "bert"
    program, pooling, info = pooled_of(folder)
    made = {"pooling": pooling, "info": info}
    prompt = texts((40,))[0].prompt

    def given(**fields) -> np.ndarray:
        request = Request(id="x", prompt=prompt, pooling=PoolingParams(**fields))
        return vectors(engine_of(program, executor, **made), [request])[0]

    raw, shares = given(use_activation=False), given()
    np.testing.assert_allclose(shares, np.exp(raw) / np.exp(raw).sum(), rtol=1e-5)
    each = given(task="token_classify").reshape(40, 3)
    np.testing.assert_allclose(each[0], shares, rtol=1e-5)  # BERT's is that of its first token
    program, pooling, info = pooled_of(DATA / "zoo" / "bert")
    made = {"pooling": pooling, "info": info}
    plain, unit, short = given(normalize=False), given(), given(dimensions=5)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), rtol=1e-5)
    np.testing.assert_allclose(short, plain[:5] / np.linalg.norm(plain[:5]), rtol=1e-5)


def test_what_a_model_does_not_do_is_refused(tmp_path: Path) -> None:
    program, pooling, info = pooled_of(DATA / "classifiers" / "bert", max_len=64)
    engine = engine_of(program, "cpu", pooling=pooling, info=info)
    with pytest.raises(UserError, match="generates no text: it gives scores"):
        engine.add(Request(id="a", prompt=[5], sampling=SamplingParams()))
    for fields, told in (
        ({"task": "embed"}, "task: 'embed' is not accepted; classify, token_classify"),
        ({"dimensions": 3}, "dimensions: 3 is not accepted; none: this model gives scores"),
    ):
        with pytest.raises(InvalidValue, match=told):
            engine.add(Request(id="a", prompt=[5], pooling=PoolingParams(**fields)))
    engine.add(Request(id="a", prompt=[5] * 64, pooling=PoolingParams()))
    with pytest.raises(InvalidValue, match="65 tokens' is not accepted; at most 64 tokens"):
        engine.add(Request(id="b", prompt=[5] * 65, pooling=PoolingParams()))
    assert [output.finish for output in engine.step()] == ["stop"]
    engine.close()
    generates = engine_of(program_of(tiny_llama.write_folder(tmp_path)), "cpu")
    with pytest.raises(UserError, match="serve it with runner=pooling"):
        generates.add(Request(id="a", prompt=[5], pooling=PoolingParams()))
    generates.close()


@pytest.mark.parametrize(
    ("name", "second", "told"),
    [("roberta", 1, "0 of this model"), ("llama", 1, "0 of this model"), ("bert", 3, "at most the prompt's tokens, 2")],
)
def test_token_types_that_the_model_does_not_have_are_refused(name: str, second: int, told: str) -> None:
    program, pooling, info = pooled_of(DATA / "classifiers" / name)
    engine = engine_of(program, "cpu", pooling=pooling, info=info)
    with pytest.raises(InvalidValue, match=f"second: {second} is not accepted; {told}"):
        engine.add(Request(id="a", prompt=[5, 6], second=second, pooling=RAW))
    engine.close()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task": "translate"}, "task: 'translate' is not accepted; embed"),
        ({"dimensions": 0}, "dimensions: 0"),
        ({"normalize": 1}, "normalize: 1"),
        ({"normalize": True, "use_activation": False}, "the value of use_activation"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens: -2"),
    ],
)
def test_parameters_out_of_range_are_refused(fields: dict, told: str) -> None:
    with pytest.raises(InvalidValue, match=told):
        PoolingParams(**fields)
