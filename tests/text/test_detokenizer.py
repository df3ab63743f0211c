"""Incremental text equals the text of all tokens at once, however tokens are cut, and costs the same for each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from text_vocab import smollm2, spm

from octavo.text.detok import Detokenizer
from octavo.text.tokenizer import Tokenizer

SMOLLM2 = smollm2()
SPM = spm()
BYTES = {  # tokens of one byte: any bytes can be spelled, valid or not
    SMOLLM2: {SMOLLM2.token_bytes(i): i for i in range(17, 273) if len(SMOLLM2.token_bytes(i)) == 1},
    SPM: {bytes([byte]): 3 + byte for byte in range(256)},
}
BOTH = pytest.mark.parametrize("tokenizer", [SMOLLM2, SPM], ids=["byte-level", "sentencepiece"])
CHARACTERS = ["é", "ก็", "漢", "😀", "👩‍👩‍👧", "नि", "\ufffd", "a"]


def spelled(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token for each byte."""
    return [BYTES[tokenizer][data[i : i + 1]] for i in range(len(data))]


def tokens_of(tokenizer: Tokenizer) -> Any:
    """Random tokens, half of them of one byte, some special."""
    return st.lists(
        st.one_of(
            st.integers(0, tokenizer.vocab_size - 1),
            st.sampled_from(sorted(BYTES[tokenizer].values())),
            st.sampled_from([0, 1, 2]),
        ),
        max_size=24,
    )


def cut(ids: list[int], places: list[int]) -> list[list[int]]:
    """The tokens in pieces, empty ones among them."""
    bounds = sorted(place % (len(ids) + 1) for place in places)
    return [ids[first:last] for first, last in zip([0, *bounds], [*bounds, len(ids)], strict=True)]


def streamed(detok: Detokenizer, pieces: list[list[int]]) -> str:
    parts = [detok.push(piece) for piece in pieces]
    return "".join([*parts, detok.finish()])


@BOTH
@settings(max_examples=250, deadline=None)
@given(data=st.data(), places=st.lists(st.integers(0, 24), max_size=24), skip=st.booleans())
def test_any_cut_of_any_tokens_gives_the_whole_text(
    tokenizer: Tokenizer, data: Any, places: list[int], skip: bool
) -> None:
    ids = data.draw(tokens_of(tokenizer))
    whole = tokenizer.decode(ids, skip_special=skip)
    assert streamed(Detokenizer(tokenizer, skip_special=skip), cut(ids, places)) == whole
    assert streamed(Detokenizer(tokenizer, skip_special=skip), [[i] for i in ids]) == whole
    assert "\ud800" not in whole and whole.encode() is not None


@BOTH
@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from(CHARACTERS), max_size=8).map("".join), places=st.lists(st.integers(0, 99), max_size=9)
)
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str, places: list[int]) -> None:
    detok = Detokenizer(tokenizer)
    pieces = [detok.push(piece) for piece in cut(spelled(tokenizer, text.encode()), places)]
    assert "".join(pieces) == text and detok.finish() == ""


@BOTH
def test_text_comes_as_soon_as_it_is_whole(tokenizer: Tokenizer) -> None:
    detok = Detokenizer(tokenizer)
    assert [detok.push([i]) for i in spelled(tokenizer, "a😀b".encode())] == ["a", "", "", "", "😀", "b"]
    assert [detok.push([i]) for i in spelled(tokenizer, b"\xe6\xbcx\x80y")] == ["", "", "\ufffdx", "\ufffd", "y"]
    assert (detok.push(spelled(tokenizer, b"\xf0\x9f")), detok.finish()) == ("", "\ufffd")


@BOTH
@settings(max_examples=200, deadline=None)
@given(data=st.data(), skip=st.booleans())
@example(data=None, skip=True)
def test_a_continued_prompt_gives_the_rest_of_the_text(tokenizer: Tokenizer, data: Any, skip: bool) -> None:
    if data is None:
        prompt, ids = spelled(tokenizer, b"a\xf0\x9f"), spelled(tokenizer, b"\x98\x80!")
    else:
        prompt, ids = data.draw(tokens_of(tokenizer)), data.draw(tokens_of(tokenizer))
    before, whole = (tokenizer.decode(part, skip_special=skip) for part in (prompt, prompt + ids))
    rest = streamed(Detokenizer(tokenizer, skip_special=skip, prompt=prompt), [[i] for i in ids])
    # either the prompt's last character is whole, or the output does not go on with it, or the output completes it
    assert whole == before + rest or (before.endswith("\ufffd") and whole == before[:-1] + rest)


@BOTH
@pytest.mark.parametrize("character", ["é", "漢", "😀", "ก"])
def test_a_prompt_that_ends_within_a_character_is_not_repeated(tokenizer: Tokenizer, character: str) -> None:
    data = character.encode()
    for place in range(1, len(data)):
        prompt = spelled(tokenizer, b"secret " + data[:place])
        completed = Detokenizer(tokenizer, prompt=prompt)
        assert streamed(completed, [[i] for i in spelled(tokenizer, data[place:] + b" on")]) == character + " on"
        left = Detokenizer(tokenizer, prompt=prompt)
        assert streamed(left, [spelled(tokenizer, b"on")]) == "on"
        assert streamed(Detokenizer(tokenizer, prompt=prompt), []) == ""


def test_a_continuation_keeps_its_leading_space() -> None:
    prompt, ids = SPM.encode("the page"), SPM.encode("was read", special=False)
    assert SPM.token_bytes(ids[0]).startswith(b" ")
    assert streamed(Detokenizer(SPM), [ids]) == "was read"
    assert streamed(Detokenizer(SPM, prompt=prompt), [ids]) == " was read"
    assert streamed(Detokenizer(SPM, prompt=[1]), [ids]) == "was read"  # nothing but a mark before it
    assert streamed(Detokenizer(SPM, skip_special=False, prompt=[1]), [ids]) == " was read"


def test_marks_are_left_out_or_named() -> None:
    ids = [1, *SMOLLM2.encode("Hi"), 2]
    assert streamed(Detokenizer(SMOLLM2), [[i] for i in ids]) == "Hi"
    assert streamed(Detokenizer(SMOLLM2, skip_special=False), [[i] for i in ids]) == "<|im_start|>Hi<|im_end|>"


@BOTH
@pytest.mark.parametrize("data", [b"\x80", b"\xf0\x9f\x98", b"\xed\xa0\x80", "😀".encode()])
def test_text_keeps_coming_valid_or_not(tokenizer: Tokenizer, data: bytes) -> None:
    count = 40_000
    ids = (spelled(tokenizer, data) * count)[:count]
    detok = Detokenizer(tokenizer)
    pieces = [detok.push([i]) for i in ids]
    assert "".join(pieces) + detok.finish() == tokenizer.decode(ids)
    held = count - sum(map(bool, pieces))
    assert held <= count - count // 4 + 1
