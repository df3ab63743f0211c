"""Marks in a text that comes in pieces: where the first is, and how much of the end may yet become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Written = Callable[[str], str]  # a mark as a grammar writes it: its text, quoted, or the id of a special token
ANYTHING = "/(?s:.*)/"  # any text, in a grammar


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str] | None:
    """The first mark and where it begins; of two that begin together the longer."""
    found = [(place, -len(mark), mark) for mark in marks if (place := text.find(mark)) >= 0]
    if not found:
        return None
    place, _, mark = min(found)
    return place, mark


def begun(text: str, marks: Sequence[str]) -> int:
    """How many of the last characters begin a mark that is not complete."""
    most = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), most, -1):
            if text.endswith(mark[:length]):
                most = length
                break
    return most
