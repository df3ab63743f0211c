"""Calls as Mistral's models write them: a JSON list behind a mark, or since tokenizer 11 a mark and a name for each.

[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}]
[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]time[CALL_ID]abcdefghi[ARGS]{}
"""

from __future__ import annotations

import re

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import arguments, balanced, headed, listed, loaded

OPENING = "[TOOL_CALLS]"
# one place alone may be the end of what stands behind [CALL_ID]: no going back and forth
_NAME = r"([^\s\[\]{}]+)(?:\[CALL_ID\][^\[\]{}]*(?:\[ARGS\]\s*)?|(?:\[ARGS\])?\s*)(?=\{)"
_HEAD = re.compile(rf"\[TOOL_CALLS\]\s*(?:(?=[\[{{])|{_NAME})")


def _end(text: str, seen: int) -> int:
    head = _HEAD.match(text)
    return -1 if head is None else balanced(text, head.end(), seen)


def _read(section: str, tools: Tools) -> list[Call]:
    head = _HEAD.match(section)
    if head is None:
        raise ValueError("no call behind the mark")
    value = loaded(section[head.end() :])
    return [(head.group(1), arguments(value))] if head.group(1) else listed(value)


_NAMED = rf"\[TOOL_CALLS\]\s*{_NAME}"
HEAD = re.compile(f"{_NAMED}|{headed((OPENING,), 'arguments').pattern}")
FAMILY = Family(_end, _read, opening=(OPENING,), marks=(OPENING, "[ARGS]", "[CALL_ID]"), head=HEAD)
