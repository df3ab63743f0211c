"""Stop strings found in pieces are those found in the whole text; text is held back only while it must be."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from octavo.text.stop import StopMatcher

LETTERS = st.text("ab\n", max_size=24)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def first_match(text: str, stops: list[str]) -> tuple[int, int, str] | None:
    """Start, end and stop string of the match that ends first; of those, the longest."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    return min(((at, at + len(stop), stop) for at, stop in found), key=lambda match: (match[1], match[0]), default=None)


def run(stops: list[str], pieces: list[str], *, include: bool) -> tuple[list[str], str | None]:
    """What is given out for each piece and at the end, and the stop string."""
    matcher = StopMatcher(stops, include=include)
    out, found = [], None
    for piece in pieces:
        text, found = matcher.push(piece)
        out.append(text)
        if found is not None:
            break
    return [*out, matcher.flush()], found


def cut(text: str, places: list[int]) -> list[str]:
    bounds = sorted(place % (len(text) + 1) for place in places)
    return [text[first:last] for first, last in zip([0, *bounds], [*bounds, len(text)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(LETTERS, STOPS, st.lists(st.integers(0, 24), max_size=12), st.booleans())
@example("aab", ["aab", "ab", "b"], [1, 2], False)  # all end together
@example("abab", ["abab", "ba"], [2], True)  # the later start ends first
@example("aaab", ["aab"], [3], False)  # a beginning that fails holds another
def test_any_cut_finds_what_the_whole_text_holds(text: str, stops: list[str], places: list[int], include: bool) -> None:
    out, found = run(stops, cut(text, places), include=include)
    match = first_match(text, stops)
    if match is None:
        assert (found, "".join(out)) == (None, text)
    else:
        start, end, stop = match
        assert (found, "".join(out)) == (stop, text[: end if include else start])


@settings(max_examples=300, deadline=None)
@given(LETTERS, STOPS, st.lists(st.integers(0, 24), max_size=12))
def test_held_back_is_only_what_may_become_a_stop_string(text: str, stops: list[str], places: list[int]) -> None:
    matcher, seen, given_out = StopMatcher(stops), "", ""
    for piece in cut(text, places):
        safe, found = matcher.push(piece)
        seen, given_out = seen + piece, given_out + safe
        if found is not None:
            break
        held = seen[len(given_out) :]
        beginnings = [stop[:size] for stop in stops for size in range(1, len(stop))]
        longest = max((len(start) for start in beginnings if seen.endswith(start)), default=0)
        assert held == seen[len(seen) - longest :]


def test_characters_of_any_kind_match() -> None:
    assert run(["終わり😀"], list("これで終わり😀もう"), include=False) == (
        ["こ", "れ", "で", "", "", "", "", ""],
        "終わり😀",
    )


def test_nothing_follows_a_stop_string() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("text EN") == ("text ", None)
    assert matcher.push("D and more") == ("", "END")
    assert matcher.push("even more") == ("", "END")
    assert matcher.flush() == ""


def test_without_stop_strings_all_passes() -> None:
    matcher = StopMatcher([])
    assert (matcher.push("text"), matcher.flush()) == (("text", None), "")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(AssertionError):
        StopMatcher(["a", ""])


def test_adverse_texts_stream_to_the_end() -> None:
    """Fifteen long stops that nearly match everywhere: this would not end in any patience if it were quadratic."""
    matcher = StopMatcher(["a" * size + "b" for size in range(1009, 1024)])
    emitted = "".join(matcher.push("a")[0] for _ in range(20_000))
    assert emitted + matcher.flush() == "a" * 20_000
