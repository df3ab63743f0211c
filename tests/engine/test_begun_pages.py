"""Begun pages are taken over: what shares a prompt computes one token of it, and every number stays what it was."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_engine
import tiny_llama
from msgspec import structs
from tiny_engine import assert_same

from octavo.core.beam import BeamSearchParams, BeamSearchSequence, search
from octavo.core.layout import PAGE
from octavo.core.plan import Output
from octavo.core.request import Request, SamplingParams
from octavo.engine.engine import Engine
from octavo.program.ops import Program

ZOO = Path(__file__).parents[1] / "data" / "zoo"
MODELS = ("llama", "float32", "mistral", "gemma3-six", "lfm2-wide", "deepseek_v2-lite")
TOKENS = 20  # of an answer
Programs = Callable[[str], Program]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    llama = tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"))

    @functools.cache
    def made(model: str) -> Program:
        path = llama if model in ("llama", "float32") else ZOO / model
        return tiny_engine.program_of(path, max_len=128, exact=model == "float32")

    return made


def engine_of(program: Program, pages: int = 64, **settings) -> Engine:
    return tiny_engine.engine_of(program, "cpu", pages=pages * program.kv.groups, seqs=8, **settings)


def choices(length: int, count: int = 4, **fields) -> list[Request]:
    """Of one prompt, the others behind the first."""
    prompt = [5 + place * place % 50 for place in range(length)]
    sampling = SamplingParams(temperature=1.0, max_tokens=TOKENS, logprobs=1)
    return [
        Request(id=f"c{number}", prompt=prompt, sampling=sampling, seed=number, after="c0" if number else "", **fields)
        for number in range(count)
    ]


def alone(program: Program, requests: Sequence[Request]) -> dict[str, Output]:
    """Each by itself, computed from nothing."""
    found = {}
    for request in requests:
        engine = engine_of(program, prefix_cache=False)
        found |= tiny_engine.gathered(engine, [structs.replace(request, after="")])
        engine.close()
    return found


def computed(engine: Engine) -> list[int]:
    """Filled with the tokens of each step of the engine."""
    counts: list[int] = []
    run = engine._worker.run

    def counting(plan):
        counts.append(sum(each.count for each in plan.runs))
        return run(plan)

    engine._worker.run = counting
    return counts


@pytest.mark.parametrize("length", [20, 33, 45, 64])
@pytest.mark.parametrize("model", MODELS)
def test_choices_compute_one_token_of_their_prompt(programs, model, length):
    program, requests = programs(model), choices(length)
    engine = engine_of(program)
    counts = computed(engine)
    found = tiny_engine.gathered(engine, requests)
    assert_same(found, alone(program, requests), "cpu")
    assert [found[f"c{number}"].cached for number in range(4)] == [0, *[length - 1] * 3]
    assert sum(counts) == length + 3 + 4 * (TOKENS - 1)
    engine.close()


@pytest.mark.parametrize("model", ["llama", "gemma3-six", "lfm2-wide"])
@pytest.mark.parametrize("step_tokens", [8, 11, 64])
def test_the_first_ends_before_the_others_begin(programs, model, step_tokens):
    """And is aborted while they copy, or long before: what it computed is there."""
    program, requests = programs(model), choices(45)
    wanted = alone(program, requests)
    engine = engine_of(program, step_tokens=step_tokens)
    for request in requests:
        engine.add(request)
    first = False
    while not first:
        first = any(output.id == "c0" for output in engine.step())
    assert engine.abort("c0") is not None
    others = requests[1:]
    assert_same(tiny_engine.finished(engine, others), {each.id: wanted[each.id] for each in others}, "cpu")
    assert_same(tiny_engine.gathered(engine, requests), wanted, "cpu")
    engine.close()


@pytest.mark.parametrize(("model", "pages"), [("llama", 7), ("gemma3-six", 26), ("lfm2-wide", 12)])
def test_preempted_choices_are_the_same(programs, model, pages):
    """A pool of little more than a sequence: who was preempted finds its begun page, or computes it again."""
    program = programs(model)
    requests = [
        structs.replace(request, sampling=structs.replace(request.sampling, max_tokens=100)) for request in choices(20)
    ]
    engine = tiny_engine.engine_of(program, "cpu", pages=pages, step_tokens=16)
    assert_same(tiny_engine.gathered(engine, requests), alone(program, requests), "cpu")
    assert engine.stats().preemptions > 0
    engine.close()


def test_another_salt_takes_over_nothing(programs):
    program = programs("llama")
    engine = engine_of(program)
    for salt, cached in (("", 0), ("tenant", 0), ("tenant", 19), ("", 19)):
        (output,) = tiny_engine.gathered(engine, choices(20, 1, salt=salt)).values()
        assert output.cached == cached
    engine.close()


def test_scored_prompts_are_computed_whole_and_serve_others(programs):
    program = programs("llama")
    scored = [
        structs.replace(request, sampling=structs.replace(request.sampling, prompt_logprobs=1))
        for request in choices(45, 2)
    ]
    plain = [structs.replace(request, id=f"p{request.id}", after="") for request in choices(45, 2)]
    engine = engine_of(program)
    found = tiny_engine.gathered(engine, scored) | tiny_engine.gathered(engine, plain)
    assert_same(found, alone(program, [*scored, *plain]), "cpu")
    assert [output.cached for output in found.values()] == [0, 0, 44, 44]
    engine.close()


def beams_of(engine: Engine, prompt: list[int], params: BeamSearchParams) -> list[BeamSearchSequence]:
    """As the server asks for them."""
    asked = 0

    def likely(beams: list[list[int]]) -> list[dict[int, float]]:
        nonlocal asked
        requests = [
            Request(id=f"b{asked + i}", prompt=beam, sampling=params.one_token()) for i, beam in enumerate(beams)
        ]
        asked += len(beams)
        found = tiny_engine.gathered(engine, requests)
        return [dict(found[request.id].logprobs[0].top) for request in requests]

    return search([prompt], params, (), likely)[0]


@pytest.mark.parametrize("length", [1, 20, 45])
@pytest.mark.parametrize("model", MODELS)
def test_beams_compute_one_token_a_step(programs, model, length):
    """32 tokens of 4 beams: the prompt, and then one of each beam; pages are copied only where a beam is two's."""
    program, params = programs(model), BeamSearchParams(beam_width=4, max_tokens=PAGE, ignore_eos=True)
    prompt = choices(length, 1)[0].prompt
    engine, plain = engine_of(program), engine_of(program, prefix_cache=False)
    counts = computed(engine)
    assert beams_of(engine, prompt, params) == beams_of(plain, prompt, params)
    assert sum(counts) == length + 4 * (PAGE - 1)
    assert engine.stats().pages_held == 0
    engine.close()
    plain.close()
