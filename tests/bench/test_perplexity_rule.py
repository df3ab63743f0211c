"""benchmarks/perplexity.py cuts a text as llama-perplexity does, and counts the tokens that it counts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import perplexity as tool
import pytest

from octavo.core.errors import InvalidValue, UserError
from octavo.engine.results import Logprob, RequestOutput


def tokenizer(edges: list[int], bos_id: int | None) -> SimpleNamespace:
    return SimpleNamespace(encode=lambda text: edges, bos_id=bos_id)


def test_whole_chunks_are_read_and_the_rest_is_dropped() -> None:
    assert tool.chunks(range(10), 4, 9, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert tool.chunks(range(8), 4, 9, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert tool.chunks(range(12), 4, 2, None) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_bos_stands_for_the_first_token_of_each_chunk() -> None:
    assert tool.chunks([90, *range(1, 9)], 4, 9, 90) == [[90, 1, 2, 3], [90, 5, 6, 7]]


def test_less_than_two_chunks_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"context: 4 .*at most 3:"):
        tool.chunks(range(7), 4, 9, None)


def test_what_the_tokenizer_puts_around_a_text() -> None:
    assert tool.added_bos(tokenizer([], 1)) is None
    assert tool.added_bos(tokenizer([1], 1)) == 1
    for edges in ([2], [1, 2]):
        with pytest.raises(UserError, match="expected a bos or nothing"):
            tool.added_bos(tokenizer(edges, 1))


@pytest.mark.parametrize(("length", "places"), [(8, [5, 6, 7]), (9, [5, 6, 7, 8]), (512, list(range(257, 512)))])
def test_tokens_behind_the_middle_one_count(length: int, places: list[int]) -> None:
    """llama-perplexity takes the logits of places n/2 to n-2, each judged by the token behind it."""
    assert list(tool.counted(length)) == places
    ids = list(range(100, 100 + length))
    entries = [None, *({token: Logprob(-float(token), 1)} for token in ids[1:])]
    found = tool.loss(RequestOutput("0", None, ids, entries, [], True))
    assert math.isclose(found, sum(ids[place] for place in places) / len(places))
