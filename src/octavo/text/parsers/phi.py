"""Calls as Phi-4-mini writes them: a JSON list behind a word.

functools[{"name": "weather", "arguments": {"city": "Oslo"}}]
"""

from __future__ import annotations

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import balanced, listed, loaded

WORD = "functools"


def _end(text: str, seen: int) -> int:
    return balanced(text, 0, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    return listed(loaded(section.removeprefix(WORD)), ("arguments", "parameters"))


FAMILY = Family(_end, _read, opening=(WORD + "[",))
