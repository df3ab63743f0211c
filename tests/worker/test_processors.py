"""Logits processors: what they give is drawn from, what they cost is counted, what they break is theirs alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_engine
import tiny_llama
from msgspec import structs

from octavo.core.errors import InvalidValue
from octavo.core.request import Request, SamplingParams
from octavo.worker import processors as module
from octavo.worker.processors import GROUP, Processors, installed

EXAMPLE = Path(__file__).parents[2] / "docs/examples/favour"


def example():
    spec = importlib.util.spec_from_file_location("octavo_favour", EXAMPLE / "src/octavo_favour.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.favour


def same(arguments, vocab):
    return lambda prompt, generated, logits: logits


def faulty(arguments, vocab):
    def process(prompt, generated, logits):
        if len(generated) == arguments["at"]:
            if arguments["how"] == "raises":
                raise RuntimeError("out of order")
            return logits[:-1] if arguments["how"] == "short" else logits * np.nan
        return logits

    return process


def ladder(arguments, vocab):
    """Token 10 + number of the token, whatever the model says."""

    def process(prompt, generated, logits):
        assert prompt.tolist() == arguments["prompt"]
        assert generated.tolist() == [10 + n for n in range(len(generated))]
        return np.where(np.arange(vocab) == 10 + len(generated), 0, -np.inf)

    return process


FACTORIES = {"favour": example(), "same": same, "faulty": faulty, "ladder": ladder}


@pytest.fixture(scope="module", params=["cpu", "reference"])
def engine(request, tmp_path_factory):
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"))
    program = tiny_engine.program_of(folder, exact=request.param == "reference")
    made = tiny_engine.engine_of(program, request.param, processors=Processors(FACTORIES, program.vocab), threads=1)
    yield made
    made.close()


def asking(request: Request, **processors) -> Request:
    return structs.replace(request, sampling=structs.replace(request.sampling, logits_processors=processors or None))


def test_a_processor_that_changes_nothing_changes_no_answer_and_is_counted(engine):
    requests = tiny_engine.mixed_requests(6, tokens=12, ends=False)
    plain = tiny_engine.gathered(engine, requests)
    before = engine.stats()
    changed = tiny_engine.gathered(engine, [asking(request, same={}) for request in requests])
    after = engine.stats()
    assert {id: output.tokens for id, output in changed.items()} == {id: output.tokens for id, output in plain.items()}
    for id, output in changed.items():
        for mine, other in zip(output.logprobs, plain[id].logprobs, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert [token for token, _ in mine.top] == [token for token, _ in other.top]
    drawn = sum(len(output.tokens) for output in plain.values())
    assert after.processor_calls["same"] - before.processor_calls["same"] == drawn
    assert after.processor_seconds["same"] > before.processor_seconds["same"]


def test_processors_see_their_sequence_and_decide_the_token_beside_others(engine):
    prompts = [[5, 6, 7], list(range(3, 60))]
    requests = [
        Request(
            id=f"p{n}",
            prompt=prompt,
            sampling=SamplingParams(max_tokens=5, logits_processors={"ladder": {"prompt": prompt}}),
        )
        for n, prompt in enumerate(prompts)
    ]
    other = Request(id="other", prompt=[9, 8], sampling=SamplingParams(max_tokens=9, temperature=0))
    alone = tiny_engine.gathered(engine, [other])["other"].tokens
    found = tiny_engine.gathered(engine, [*requests, other])
    assert [found[f"p{n}"].tokens for n in range(2)] == [[10, 11, 12, 13, 14]] * 2
    assert found["other"].tokens == alone


def test_the_example_favours_its_tokens(engine):
    one = Request(id="a", prompt=[5, 6, 7], sampling=SamplingParams(max_tokens=40, seed=3))
    tokens = tiny_engine.gathered(engine, [asking(one, favour={"tokens": [77], "strength": 3.0})])["a"].tokens
    assert tokens.count(77) > 3
    assert tokens.count(77) < 40


@pytest.mark.parametrize("how", ["raises", "short", "nan"])
def test_what_a_processor_breaks_ends_its_own_sequence(engine, how):
    good = Request(id="good", prompt=[5, 6, 7], sampling=SamplingParams(max_tokens=8, temperature=0))
    alone = tiny_engine.gathered(engine, [good])["good"].tokens
    bad = asking(structs.replace(good, id="bad"), faulty={"at": 3, "how": how})
    found = tiny_engine.gathered(engine, [bad, good])
    assert (found["bad"].finish, len(found["bad"].tokens)) == ("error", 3)
    assert "logits_processors" in found["bad"].error
    assert (found["good"].finish, found["good"].tokens) == ("length", alone)


def test_what_is_not_there_or_takes_no_such_arguments_is_refused(engine):
    one = Request(id="a", prompt=[5])
    with pytest.raises(InvalidValue, match="favour, same, faulty, ladder"):
        engine.add(asking(one, nothing={}))
    for arguments in ({}, {"tokens": [10**6]}, {"tokens": [5], "strong": 1}):
        with pytest.raises(InvalidValue, match=r"logits_processors\.favour"):
            engine.add(asking(one, favour=arguments))
    assert not engine.has_work


class Point:
    """An entry point."""

    name, value = "one", "a:b"

    def load(self):
        raise ImportError("no such thing")


def test_entry_points_are_loaded_by_name_and_one_that_cannot_be_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "entry_points", lambda group: asked.append(group) or [])
    assert installed() == {}
    assert asked == [GROUP]
    monkeypatch.setattr(module, "entry_points", lambda group: [Point()])
    with pytest.raises(InvalidValue, match="a:b"):
        installed()
