"""Calls as Phi-4-mini writes them: a JSON list behind a word.

functools[{"name": "weather", "arguments": {"city": "Oslo"}}]
"""

from __future__ import annotations

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import balanced, headed, listed, loaded

WORD = "functools"
KEYS = ("arguments", "parameters")


def _end(text: str, seen: int) -> int:
    return balanced(text, 0, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    return listed(loaded(section.removeprefix(WORD)), KEYS)


FAMILY = Family(_end, _read, opening=(WORD + "[",), head=headed((WORD,), *KEYS))
