"""DRY against loops over the tokens, as llama.cpp writes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.request import SamplingParams
from octavo.worker.dry import LARGEST, Dry


def naive(tokens: list[int], rules: SamplingParams, breakers: list[list[int]]) -> dict[int, float]:
    """Every suffix against every place."""
    last = rules.dry_penalty_last_n
    window = tokens if last < 0 else tokens[max(0, len(tokens) - last) :]
    if len(window) <= rules.dry_allowed_length:
        return {}
    reach = len(window)
    for place in range(len(window) - 1, -1, -1):
        fits = [len(b) for b in breakers if window[place : place + len(b)] == b]
        if fits:
            reach = len(window) - place - max(fits)
            break
    longest: dict[int, int] = {}
    for place in range(len(window) - 1):
        length = 0
        while length < min(reach, place + 1) and window[place - length] == window[len(window) - 1 - length]:
            length += 1
        token = window[place + 1]
        if length >= rules.dry_allowed_length and [token] not in breakers:
            longest[token] = max(length, longest.get(token, 0))
    if reach < rules.dry_allowed_length:
        return {}
    return {
        token: max(-rules.dry_multiplier * rules.dry_base ** (length - rules.dry_allowed_length), LARGEST)
        for token, length in longest.items()
    }


@settings(max_examples=500, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    allowed=st.integers(0, 4),
    last=st.sampled_from([-1, 1, 5, 20, 1000]),
    base=st.sampled_from([1.0, 1.75, 3.0]),
    breakers=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=3),
)
def test_penalties_equal_those_of_loops(
    tokens: list[int], allowed: int, last: int, base: float, breakers: list[list[int]]
) -> None:
    rules = SamplingParams(dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed, dry_penalty_last_n=last)
    ids, penalties = Dry(rules, breakers).penalties(np.array(tokens, np.int32))
    want = naive(tokens, rules, breakers)
    assert ids.tolist() == sorted(want)
    assert penalties.tolist() == pytest.approx([want[token] for token in sorted(want)], rel=1e-6)


def test_the_example_of_llama_cpp() -> None:
    a, b, c, y = range(4)
    rules = SamplingParams(dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=1)
    ids, penalties = Dry(rules, []).penalties(np.array([a, b, c, c, b, c, y, a, b, c], np.int32))
    assert dict(zip(ids.tolist(), (-penalties).tolist(), strict=True)) == {c: 4, b: 1, y: 2}


def test_a_repetition_as_long_as_the_context_weighs_a_finite_number() -> None:
    rules = SamplingParams(dry_multiplier=100.0)
    ids, penalties = Dry(rules, []).penalties(np.full(4000, 7, np.int32))
    assert (ids.tolist(), penalties.tolist()) == ([7], [np.float32(LARGEST)])
