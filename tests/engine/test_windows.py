"""Models of sliding windows give back the pages behind them, and every number stays what it was.

Texts are longer than the windows many times over: all layers have one (Mistral), every other (Gemma 2), five of six
(Gemma 3). The windows of LFM2 are the taps of convolutions, whose inputs lie in pages as keys and values do.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import tiny_engine
from tiny_engine import assert_same

from octavo.core.groups import CacheGroups
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.engine.engine import Engine

ZOO = Path(__file__).parents[1] / "data" / "zoo"
MODELS = ("mistral", "gemma2", "gemma3-six", "lfm2", "lfm2-wide")
CASES = [*((model, "cpu") for model in MODELS), ("gemma2", "reference"), ("lfm2-wide", "reference")]
REQUESTS = {"longest": 95, "tokens": 25, "vocab": 64}
GROWING = {"longest": 20, "tokens": 90, "ends": False, "vocab": 64}


@functools.cache
def program(model: str, executor: str):
    return tiny_engine.program_of(ZOO / model, max_len=128, exact=executor == "reference")


def engine_of(model: str, executor: str, **settings) -> Engine:
    made = program(model, executor)
    return tiny_engine.engine_of(made, executor, **{"pages": 32 * made.kv.groups, **settings})


@functools.cache
def whole(model: str, executor: str, growing: bool = False) -> dict[str, Output]:
    """Each request by itself and at once, every page kept to its end."""
    found = {}
    for request in tiny_engine.mixed_requests(**(GROWING if growing else REQUESTS)):
        engine = engine_of(model, executor, threads=1, prefix_cache=False, give_back=False)
        found |= tiny_engine.gathered(engine, [request])
        engine.close()
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_models_are_what_they_stand_for(model):
    windows = program(model, "cpu").kv.windows
    assert 0 < max(windows) < 32 and (0 in windows) == (model != "mistral")
    assert max(len(answer.tokens) for answer in whole(model, "cpu").values()) >= 25


@pytest.mark.parametrize(("model", "executor"), CASES)
@pytest.mark.parametrize(("step_tokens", "seqs"), [(7, 7), (64, 8), (512, 3)])
@pytest.mark.parametrize("give_back", [True, False])
def test_together_in_any_chunks(model, executor, step_tokens, seqs, give_back):
    engine = engine_of(model, executor, step_tokens=step_tokens, seqs=seqs, prefix_cache=False, give_back=give_back)
    found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**REQUESTS))
    assert_same(found, whole(model, executor), executor)
    engine.close()


@pytest.mark.parametrize(("model", "executor"), CASES)
def test_cold_and_prefix_cached(model, executor):
    engine = engine_of(model, executor, pages=64 * program(model, executor).kv.groups)
    for _ in range(2):
        found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**REQUESTS))
        assert_same(found, whole(model, executor), executor)
    asked = {request.id: request for request in tiny_engine.mixed_requests(**REQUESTS)}
    cached = {name: len(r.prompt) - 1 for name, r in asked.items() if not r.sampling.prompt_logprobs}
    assert {name: found[name].cached for name in cached} == cached
    assert sum(cached.values()) > 100
    engine.close()


@pytest.mark.parametrize(("model", "executor"), CASES)
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_and_resumed(model, executor, prefix_cache):
    """A pool of little more than a sequence needs: pages given back are another's at once.

    Of windows shorter than a page alone, a sequence never holds more than it was admitted with.
    """
    pages = {"mistral": 6, "gemma3-six": 26}.get(model, 12)
    assert pages >= CacheGroups(program(model, executor).kv.windows, 16).pages(128)
    engine = engine_of(model, executor, pages=pages, step_tokens=16, prefix_cache=prefix_cache)
    found = tiny_engine.gathered(engine, tiny_engine.mixed_requests(**GROWING))
    assert_same(found, whole(model, executor, growing=True), executor)
    assert (engine.stats().preemptions > 0) == (model != "mistral")
    engine.close()


@pytest.mark.parametrize("model", MODELS)
def test_aborts_leave_nothing_behind(model):
    engine = engine_of(model, "cpu", step_tokens=16)
    requests = tiny_engine.mixed_requests(**REQUESTS)
    for request in requests:
        engine.add(request)
    for step in range(12):
        engine.step()
        if step % 2:
            engine.abort(requests[step // 2].id)
        engine.check()
    for request in requests:
        engine.abort(request.id)
    engine.step()
    assert engine.stats().pages_held == 0
    engine.close()


@pytest.mark.parametrize("model", MODELS)
def test_a_window_holds_a_bounded_number_of_pages_however_long_the_text(model):
    peaks = {}
    windows = program(model, "cpu").kv.windows
    for give_back in (True, False):
        engine = engine_of(model, "cpu", step_tokens=8, seqs=8, give_back=give_back, prefix_cache=False)
        sampling = SamplingParams(temperature=0, ignore_eos=True, max_tokens=28)
        engine.add(Request(id="a", prompt=[3] * 100, sampling=sampling))
        held = []
        while engine.has_work:
            engine.step()
            held.append(engine.stats().pages_held)
        peaks[give_back] = max(held)
        engine.close()
    assert peaks[False] == 4 * len(windows)
    bounds = [-(-(window + 8) // 32) + 1 if window else 4 for window in windows]
    assert peaks[True] <= sum(bounds) < peaks[False]
