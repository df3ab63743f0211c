"""Calls as Nous Hermes, Qwen2.5, Qwen3 and many others write them: a JSON object between tags, for each call.

<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>
"""

from __future__ import annotations

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import behind, headed, listed, loaded

OPENING, CLOSING = "<tool_call>", "</tool_call>"


def _end(text: str, seen: int) -> int:
    return behind(text, CLOSING, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    return listed(loaded(section.removeprefix(OPENING).removesuffix(CLOSING)))


HEAD = headed((OPENING,), "arguments")
FAMILY = Family(_end, _read, opening=(OPENING,), marks=(OPENING, CLOSING), head=HEAD, closing=(CLOSING,))
