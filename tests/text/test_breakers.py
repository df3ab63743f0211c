"""Sequence breakers as tokens: every way a vocabulary can spell one."""

from __future__ import annotations

import pytest
import tiny_llama

from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue
from octavo.text.breakers import DEFAULT, Breakers, required
from octavo.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


def test_default_breakers_are_the_tokens_that_hold_one(tokenizer):
    found = Breakers(tokenizer).of(None)
    words = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    held = {token for token, word in enumerate(words) if any(text.encode() in word for text in DEFAULT)}
    assert {breaker[0] for breaker in found} == held
    assert all(len(breaker) == 1 for breaker in found)
    assert held


def test_a_longer_breaker_is_what_begins_it_and_the_rest(tokenizer):
    breakers = Breakers(tokenizer)
    found = breakers.of(["the end"])
    assert found is breakers.of(["the end"])
    assert found
    for head, *tail in found:
        word, rest = tokenizer.token_bytes(head), b"".join(map(tokenizer.token_bytes, tail))
        assert b"the end" in word + rest
        assert rest == b"" or b"the end".endswith(rest)
    heads = {breaker[0] for breaker in found}
    for token in range(tokenizer.vocab_size):
        word = tokenizer.token_bytes(token)
        begins = any(word.endswith(b"the end"[:length]) for length in range(1, 8))
        assert (token in heads) == (b"the end" in word or begins)


def test_without_a_tokenizer_there_are_none():
    with pytest.raises(InvalidValue, match="dry_multiplier"):
        required(None)
