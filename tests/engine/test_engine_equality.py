"""The batch never changes the answer: the same tokens and log-probabilities however a request is served.

With the native executor every number is equal bit by bit. Numpy's products depend on the batch in their last bits, so
the reference computes all in float32 here, and only its tokens are equal; its log-probabilities are close.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import tiny_engine
import tiny_llama
from tiny_engine import assert_same

from octavo.core.plan import Output

EXECUTORS = ("reference", "cpu")
MODELS = ("folder", "gguf", "mixed")
CASES = [("folder", "reference"), ("folder", "cpu"), ("gguf", "cpu"), ("mixed", "cpu")]
SHORT = {"longest": 150}  # much prompt, few tokens to generate
GROWING = {"longest": 20, "tokens": 90, "ends": False}  # little prompt, and pages to grow by


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("models")
    paths = {
        "folder": tiny_llama.write_folder(folder / "plain", tied=False, bias=True),
        "gguf": tiny_llama.write_gguf(folder / "tiny.gguf", dtype="Q4_1"),
        "mixed": tiny_llama.write_mixed(folder / "mixed.gguf"),
    }
    return functools.cache(lambda model, executor: tiny_engine.program_of(paths[model], exact=executor == "reference"))


@pytest.fixture(scope="module")
def alone(programs):
    """Each request by itself, computed from nothing: what everything else is held against."""

    @functools.cache
    def answers(model: str, executor: str, growing: bool = False) -> dict[str, Output]:
        found = {}
        for request in tiny_engine.mixed_requests(**(GROWING if growing else SHORT)):
            engine = tiny_engine.engine_of(programs(model, executor), executor, threads=1, prefix_cache=False)
            found |= tiny_engine.gathered(engine, [request])
            engine.close()
        return found

    return answers


@pytest.mark.parametrize(("model", "executor"), CASES)
def test_requests_answer_for_themselves(alone, model, executor):
    requests, answers = tiny_engine.mixed_requests(**SHORT), alone(model, executor)
    assert len({tuple(answer.tokens) for answer in answers.values()}) == len(requests)
    for request in requests:
        answer = answers[request.id]
        assert answer.finish in ("length", "stop")
        assert len(answer.tokens) <= request.sampling.max_tokens
        assert answer.finish == "stop" or len(answer.tokens) == request.sampling.max_tokens
        assert len(answer.logprobs) == (0 if request.sampling.logprobs is None else len(answer.tokens))
        wanted = request.prompt[1:] if request.sampling.prompt_logprobs is not None else []
        assert [entry.token for entry in answer.prompt_logprobs] == wanted


@pytest.mark.parametrize(("model", "executor"), CASES)
@pytest.mark.parametrize(("step_tokens", "seqs"), [(7, 7), (64, 8), (512, 8), (512, 3)])
def test_together_in_any_chunks(programs, alone, model, executor, step_tokens, seqs):
    engine = tiny_engine.engine_of(
        programs(model, executor), executor, step_tokens=step_tokens, seqs=seqs, prefix_cache=False
    )
    assert_same(tiny_engine.gathered(engine, tiny_engine.mixed_requests(**SHORT)), alone(model, executor), executor)
    engine.close()


@pytest.mark.parametrize(("model", "executor"), CASES)
@pytest.mark.parametrize("target", [0.001, 1, 5])
def test_under_any_target(programs, alone, model, executor, target):
    """Chunks whose lengths depend on how long steps took."""
    engine = tiny_engine.engine_of(programs(model, executor), executor, prefix_cache=False, itl_target_ms=target)
    found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**SHORT))
    assert_same(found, alone(model, executor), executor)
    engine.close()


@pytest.mark.parametrize(("model", "executor"), CASES)
def test_cold_and_prefix_cached(programs, alone, model, executor):
    engine = tiny_engine.engine_of(programs(model, executor), executor)
    for warm in (False, True):
        found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**SHORT))
        assert_same(found, alone(model, executor), executor)
        if warm:
            asked = {request.id: request for request in tiny_engine.mixed_requests(**SHORT)}
            cached = {name: len(r.prompt) - 1 for name, r in asked.items() if not r.sampling.prompt_logprobs}
            assert {name: found[name].cached for name in cached} == cached
            assert sum(cached.values()) > 100
    engine.close()


@pytest.mark.parametrize(("model", "executor"), CASES)
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_and_resumed(programs, alone, model, executor, prefix_cache):
    engine = tiny_engine.engine_of(
        programs(model, executor), executor, pages=9, step_tokens=64, prefix_cache=prefix_cache
    )
    found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**GROWING))
    assert_same(found, alone(model, executor, growing=True), executor)
    assert engine.stats().preemptions >= 2
    engine.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_threads(programs, alone, model, threads):
    engine = tiny_engine.engine_of(programs(model, "cpu"), "cpu", threads=threads)
    assert_same(tiny_engine.gathered(engine, tiny_engine.mixed_requests(**SHORT)), alone(model, "cpu"), "cpu")
    engine.close()


def test_native_and_reference_agree(programs):
    program = programs("folder", "reference")
    found = {}
    for executor in EXECUTORS:
        engine = tiny_engine.engine_of(program, executor)
        found[executor] = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**SHORT))
        engine.close()
    assert_same(found["cpu"], found["reference"], "reference")
