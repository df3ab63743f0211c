"""Calls as Llama 3 writes them: JSON objects as the answer, or behind a mark; several with semicolons between.

{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": ...}
"""

from __future__ import annotations

from octavo.text.parsers.calls import SPACES, Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import balanced, called, headed, loaded

MARK = "<|python_tag|>"
KEYS = ("parameters", "arguments")


def _end(text: str, seen: int) -> int:
    return balanced(text, 0, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    value = loaded(section.removeprefix(MARK))
    if not isinstance(value, dict) or not any(key in value for key in KEYS):
        raise ValueError("an object, but no call")
    return [called(value, KEYS)]


FAMILY = Family(
    _end,
    _read,
    opening=(MARK, '{"name"'),
    leading=("{",),
    marks=(MARK,),
    spaces=SPACES + ";",
    apart=False,
    head=headed((MARK,), *KEYS),
)
