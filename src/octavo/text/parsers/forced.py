"""Calls that a grammar forces (text/forced.py): a JSON list, whose arguments are given out as they come.

[{"name":"weather","parameters":{"city":"Oslo"}},{"name":...}]
"""

from __future__ import annotations

import json
import re

from octavo.text.parsers.calls import new_id
from octavo.text.parsers.events import Arguments, CallBegun, Content, Event

_HEAD = re.compile(r'\}?[\[,]\{"name":("(?:[^"\\]|\\.)*"),"parameters":')
_PARTS = re.compile(r'"|\\.?|[\[\]{}]', re.DOTALL)


class Forced:
    """Reads one list. Where the text was cut before its first call, it is content."""

    def __init__(self) -> None:
        self._text = ""
        self._count = 0
        self._within = False  # the arguments of a call
        self._depth = 0
        self._quoted = False

    def push(self, text: str) -> list[Event]:
        """What came of the calls."""
        self._text += text
        events: list[Event] = []
        while self._text and (self._more(events) if self._within else self._begin(events)):
            pass
        return events

    def finish(self) -> list[Event]:
        """What is left: of a first call that was cut, its head. That of a later one is dropped."""
        text, self._text = self._text, ""
        if self._within:
            return [Arguments(self._count - 1, text)] if text else []
        return [Content(text)] if text and not self._count else []

    def _begin(self, events: list[Event]) -> bool:
        """The head of the next call; whether it is there."""
        head = _HEAD.match(self._text)
        if head is None:
            return False
        events.append(CallBegun(self._count, new_id(), json.loads(head.group(1))))
        self._text, self._within, self._depth, self._quoted = self._text[head.end() :], True, 0, False
        self._count += 1
        return True

    def _more(self, events: list[Event]) -> bool:
        """Arguments, up to their end; whether that is there."""
        end = len(self._text)
        for part in _PARTS.finditer(self._text):
            letter = part.group()
            if letter == "\\":  # the rest of an escape is to come
                end = part.start()
            elif letter == '"':
                self._quoted = not self._quoted
            elif not self._quoted and letter in "[{":
                self._depth += 1
            elif not self._quoted and letter in "]}":
                self._depth -= 1
                if not self._depth:
                    end, self._within = part.end(), False
                    break
        given, self._text = self._text[:end], self._text[end:]
        if given:
            events.append(Arguments(self._count - 1, given))
        return not self._within
