"""Calls as Granite 3 writes them: a JSON list behind a mark, or as the answer; Granite 20B: an object behind a mark.

<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]
"""

from __future__ import annotations

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import balanced, headed, listed, loaded

MARKS = ("<|tool_call|>", "<tool_call>", "<function_call>")


def _end(text: str, seen: int) -> int:
    return balanced(text, 0, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    for mark in MARKS:
        section = section.removeprefix(mark)
    return listed(loaded(section))


HEAD = headed(MARKS, "arguments")
FAMILY = Family(_end, _read, opening=MARKS, leading=("[",), marks=MARKS, apart=False, head=HEAD)
