"""What llguidance would compile for minutes, or hours, ends after two seconds of a processor: see worker/trial.py."""

from __future__ import annotations

import os
import signal

import pytest
import text_vocab

from octavo.core.errors import UserError
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.text.grammar import grammar_of
from octavo.worker.grammars import Grammars

TOKENIZER = text_vocab.smollm2()
ENDLESS = {
    "pairs of patterns": {"json": {"patternProperties": {f"^{n}$": {} for n in range(1000, 2500)}}},
    "pairs of properties": {"json": {"properties": {f"{n}": {} for n in range(9000)}}},
    "intersected patterns": {"json": {"type": "string", "allOf": [{"pattern": f"{n}"} for n in range(100, 140)]}},
}


@pytest.fixture(scope="module")
def grammars():
    made = Grammars(lambda: TOKENIZER, 49152, tuple(TOKENIZER.eos_ids), tried=True)
    yield made
    made.close()


def hold(grammars: Grammars, **form) -> None:
    grammar = grammar_of(StructuredOutputsParams(**form), TOKENIZER)
    request = Request(id="x", prompt=[1], sampling=SamplingParams(), grammar=grammar, grammar_field="here")
    grammars.hold(request)
    assert grammars.take(request)
    grammars.release("x")


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_refused_and_what_comes_next_is_compiled(grammars, name):
    with pytest.raises(UserError, match=r"^here: it takes more than 2 seconds to compile, or too much memory$"):
        hold(grammars, **ENDLESS[name])
    hold(grammars, regex=f"{name}+")


def test_special_tokens_are_known_and_other_errors_are_the_librarys(grammars):
    hold(grammars, grammar='start: <|im_end|> "a" <[49151]>')
    with pytest.raises(UserError, match=r"here: .*special token"):
        hold(grammars, grammar="start: <|no_such|>")


def test_the_process_may_be_ended_by_others_and_ends_with_its_owner(grammars):
    hold(grammars, regex="a")
    process = grammars._trial._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hold(grammars, regex="b")
    process = grammars._trial._process
    grammars.close()
    grammars.close()
    assert process.returncode is not None
    hold(grammars, regex="c")
