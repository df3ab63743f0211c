"""Calls of tools within a text: found by the marks of a family, read when whole, given out or left as content.

Invariant: only calls of known tools with a JSON object as arguments are given out; whatever else stands between the
marks is content, as it is written. White space behind a call is dropped, and that before one where no content follows.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass

from octavo.text.parsers.events import Arguments, CallBegun, Content, Event, Tools
from octavo.text.parsers.marks import begun, first_of

SPACES = " \t\r\n"
LETTERS = string.ascii_letters + string.digits
Call = tuple[str, str]  # name, arguments as JSON


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one family write calls.

    opening: what a section of calls begins with, anywhere; leading: the same, only where nothing but white space or
    calls stand before it. end: where the section at the start of a text ends, -1 if it does not yet; of the text the
    first characters, whose number is given, were seen before. read: the calls of a section, whose end may be missing.
    Raises ValueError where it holds none. marks: what must stay in the text although it is special. spaces: what is
    dropped beside calls. apart: a grammar can tell calls by their first mark from an answer.
    """

    end: Callable[[str, int], int]
    read: Callable[[str, Tools], list[Call]]
    opening: tuple[str, ...] = ()
    leading: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    spaces: str = SPACES
    apart: bool = True


def new_id() -> str:
    """A call's name: nine letters and digits, which is what Mistral's templates take."""
    return "".join(secrets.choice(LETTERS) for _ in range(9))


class Calls:
    """Reads one text. parallel: whether calls after the first are given out; else they are dropped."""

    def __init__(self, family: Family, tools: Tools, *, parallel: bool = True) -> None:
        self._family = family
        self._tools = tools
        self._parallel = parallel
        self._text = ""  # not given out: what may begin a section, or one that has begun
        self._inside = False
        self._seen = 0
        self._space = ""  # not given out: white space that may stand before a call
        self._said = False
        self._after_call = False
        self._count = 0

    def push(self, text: str) -> list[Event]:
        """What is certain with this text."""
        self._text += text
        events: list[Event] = []
        while self._text and self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """What is left: a section without its end, or content."""
        events: list[Event] = []
        text, self._text = self._text, ""
        if self._inside:
            self._section(text, events)
        else:
            self._say(text, events)
        space, self._space = self._space, ""
        if space and not self._after_call:
            events.append(Content(space))
        return events

    def _step(self, events: list[Event]) -> bool:
        """Take one section, or the content before the next. Whether there is more to look at."""
        if self._inside:
            end = self._family.end(self._text, self._seen)
            if end < 0:
                self._seen = len(self._text)
                return False
            section, self._text = self._text[:end], self._text[end:]
            self._inside = False
            self._section(section, events)
            return True
        place, self._inside = self._opening()
        content, self._text, self._seen = self._text[:place], self._text[place:], 0
        self._say(content, events)
        return self._inside

    def _opening(self) -> tuple[int, bool]:
        """How far the text is content, and whether a section begins there."""
        text, family = self._text, self._family
        if not self._said and family.leading:
            start = len(text) - len(text.lstrip(family.spaces))
            if text.startswith(family.leading, start):
                return start, True
            if any(mark.startswith(text[start:]) for mark in family.leading):
                return start, False
        found = first_of(text, family.opening)
        if found is not None:
            return found[0], True
        return len(text) - begun(text, family.opening), False

    def _section(self, text: str, events: list[Event]) -> None:
        """Give out the calls of a section; what holds none is content."""
        try:
            calls = self._family.read(text, self._tools)
        except (ValueError, RecursionError, MemoryError):
            calls = []
        if not calls or any(name not in self._tools for name, _ in calls):
            self._say(text, events)
            return
        self._space, self._after_call = self._space if self._said else "", True
        for name, arguments in calls:
            if self._parallel or not self._count:
                events.append(CallBegun(self._count, new_id(), name))
                events.append(Arguments(self._count, arguments))
                self._count += 1

    def _say(self, text: str, events: list[Event]) -> None:
        """Give out content, but for white space at its end."""
        if self._after_call:
            text = text.lstrip(self._family.spaces)
            self._after_call = not text
        text = self._space + text
        kept = text.rstrip(self._family.spaces)
        self._space = text[len(kept) :]
        if kept:
            self._said = True
            events.append(Content(kept))
