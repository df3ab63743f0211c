"""Calls of tools within a text: found by the marks of a family, given out as they come or whole, or left as content.

A call is certain once the text before its arguments is complete, names a known tool, and their JSON object begins
(`Family.head`). From there on they are given out as written, as far as they are JSON (or as the family's reader turns
them into it); where that breaks or ends, the call stays as it is. Forms without such a head, and calls written
otherwise, are read when their section is whole.

Invariant: only calls of known tools are given out, with a JSON object as arguments, or the beginning of one where it
breaks or ends; whatever else stands between the marks is content, as it is written: behind a call, if it is more than
closing brackets and marks. White space behind a call is dropped, and that before one where no content follows.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from octavo.text.parsers.events import Arguments, CallBegun, Content, Event, Tools
from octavo.text.parsers.marks import begun, first_of
from octavo.text.parsers.scan import Scan

SPACES = " \t\r\n"
MAX_HEAD = 1024  # characters, looked at anew with each piece until they are whole; a longer one waits for its section
LETTERS = string.ascii_letters + string.digits
Call = tuple[str, str]  # name, arguments as JSON


class Reader(Protocol):
    """Reads the arguments of one call; see Scan, for those that are JSON."""

    @property
    def done(self) -> bool:
        """Whether they are whole."""

    def push(self, text: str, start: int, end: int) -> tuple[int, str]:
        """Take text[start:end] of a section: as far as is certain, and the JSON of it."""

    def rest(self, arguments: str) -> str:
        """What is missing at the end of the section, of `arguments`, which it holds read as a whole."""


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one family write calls.

    opening: what a section of calls begins with, anywhere; leading: the same, only where nothing but white space or
    calls stand before it. end: where the section at the start of a text ends, -1 if it does not yet; of the text the
    first characters, whose number is given, were seen before. read: the calls of a section, whose end may be missing.
    Raises ValueError where it holds none. marks: what must stay in the text although it is special. spaces: what is
    dropped beside calls. apart: a grammar can tell calls by their first mark from an answer. head: what stands before
    the arguments of a call, from the start of its section or the end of the arguments before it, with the name as its
    group and the object's bracket behind it. closing: marks that end calls and sections. reader: of the arguments of a
    tool.
    """

    end: Callable[[str, int], int]
    read: Callable[[str, Tools], list[Call]]
    opening: tuple[str, ...] = ()
    leading: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    spaces: str = SPACES
    apart: bool = True
    head: re.Pattern[str] | None = None
    closing: tuple[str, ...] = ()
    reader: Callable[[str, Tools], Reader] = lambda name, tools: Scan()


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
        self._place = 0  # of the section, what is given out
        self._given = 0  # calls of the section
        self._reader: Reader | None = None  # of the arguments that are being given out
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
                self._begun(self._text, self._seen - begun(self._text, self._family.closing), events)
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
        """Give out the calls of a section that are not yet; what holds none is content."""
        closing = max((len(mark) for mark in self._family.closing if text.endswith(mark)), default=0)
        self._begun(text, len(text) - closing, events)
        given, reader, rest = self._given, self._reader, text[self._place :]
        self._place, self._given, self._reader = 0, 0, None
        try:
            calls = self._family.read(text, self._tools)
        except (ValueError, RecursionError, MemoryError):
            calls = []
        if not calls or any(name not in self._tools for name, _ in calls):
            if not given or not self._closes(rest):
                self._say(rest, events)
            return
        if reader is not None and given <= len(calls):
            self._argue(reader.rest(calls[given - 1][1]), events)
        for name, arguments in calls[given:]:
            self._call(name, events)
            self._argue(arguments, events)

    def _begun(self, text: str, end: int, events: list[Event]) -> None:
        """Give out what is certain of the calls in the first `end` characters of a section."""
        head = self._family.head
        while head is not None:
            if self._reader is None:
                found = head.match(text, self._place, min(end, self._place + MAX_HEAD))
                if found is None or (name := found[found.lastindex or 0]) not in self._tools:
                    return
                self._reader, self._place = self._family.reader(name, self._tools), found.end()
                self._given += 1
                self._call(name, events)
            self._place, news = self._reader.push(text, self._place, end)
            self._argue(news, events)
            if not self._reader.done:
                return
            self._reader = None

    def _closes(self, rest: str) -> bool:
        """Whether what stands behind a call only ends it, or begins to."""
        for mark in self._family.closing:
            rest = rest.replace(mark, "")
        rest = rest.strip(SPACES + "]}")
        return not rest or any(mark.startswith(rest) for mark in self._family.closing)

    def _call(self, name: str, events: list[Event]) -> None:
        """Begin a call."""
        self._space, self._after_call = self._space if self._said else "", True
        self._count += 1
        if self._parallel or self._count == 1:
            events.append(CallBegun(self._count - 1, new_id(), name))

    def _argue(self, text: str, events: list[Event]) -> None:
        """More of the arguments of the last call."""
        if text and (self._parallel or self._count == 1):
            events.append(Arguments(self._count - 1, text))

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
