"""Masks of running sequences: allowed tokens, a grammar, both, or neither."""

from __future__ import annotations

import numpy as np
import pytest
import text_vocab

from octavo.core.plan import Start
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.text.grammar import grammar_of
from octavo.worker.grammars import Grammars
from octavo.worker.guides import DEAD, Guides

VOCAB = 49152
TOKENIZER = text_vocab.smollm2()
GRAMMARS = Grammars(lambda: TOKENIZER, VOCAB, tuple(TOKENIZER.eos_ids))
A, B, C = (TOKENIZER.encode(text, special=False)[0] for text in "abc")
CHOICE = grammar_of(StructuredOutputsParams(choice=["a", "b"]))


def started(slots: dict[int, tuple[list[int] | None, str]]) -> Guides:
    guides = Guides(GRAMMARS, 4, VOCAB)
    for slot, (allowed, grammar) in slots.items():
        sampling = SamplingParams(allowed_token_ids=allowed)
        request = Request(id=str(slot), prompt=[1, 2], sampling=sampling, grammar=grammar, grammar_field="grammar")
        guides.start(Start(slot, request, (1, 2)))
    return guides


def allowed(guides: Guides, slot: int) -> set[int]:
    bits = np.unpackbits(guides._masks[slot].view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


@pytest.mark.parametrize(
    ("listed", "grammar", "wanted"),
    [
        ([0, C, VOCAB - 1], "", {0, C, VOCAB - 1}),
        (None, CHOICE, {A, B}),
        ([B, C], CHOICE, {B}),
    ],
)
def test_a_mask_is_what_the_list_and_the_grammar_allow(listed, grammar, wanted):
    guides = started({0: ([7], ""), 2: (listed, grammar), 3: (None, "")})
    assert allowed(guides, 2) == wanted
    assert allowed(guides, 0) == {7}
    guides.free(2)
    guides.free(0)
    assert not guides.any


def test_the_list_holds_behind_each_token():
    guides = started({1: ([A, B], grammar_of(StructuredOutputsParams(regex="[abc]{3}")))})
    for _ in range(2):
        advance = guides.accept(1, A, 10, jump=True)
        assert (advance.tokens, advance.stopped, advance.failed) == ([A], False, None)
        assert allowed(guides, 1) == {A, B}
    assert guides.accept(1, B, 10, jump=True).stopped


def test_where_list_and_grammar_leave_nothing_the_request_fails():
    guides = started({1: ([C], CHOICE)})
    assert allowed(guides, 1) == set()
    assert guides.accept(1, C, 10, jump=True).failed == DEAD


@pytest.mark.parametrize(("listed", "banned"), [([C], False), (None, True)])
def test_what_was_drawn_where_nothing_is_left_is_no_answer_though_the_grammar_takes_it(listed, banned):
    guides = started({1: (listed, CHOICE)})
    assert guides.accept(1, A, 10, jump=True, banned=banned).failed == DEAD


def test_no_mask_takes_no_memory_and_masks_take_what_the_plan_says():
    assert not started({0: (None, "")})._masks.size
    guides = started({slot: ([A, B], CHOICE) for slot in range(4)})
    taken = guides._masks.nbytes + sum(mask.nbytes for mask in guides._allowed.values())
    assert taken == Guides.size_bytes(4, VOCAB)
