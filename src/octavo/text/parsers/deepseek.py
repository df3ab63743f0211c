"""Calls as DeepSeek-V3 and R1 write them, and as V3.1 does, which leaves out kind and fence.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather
```json
{"city": "Oslo"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import arguments, behind, loaded

OPENING, CLOSING = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, BETWEEN, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_CALL = re.compile(rf"\s*{BEGIN}(.*?){BETWEEN}(.*?)(?:{END}\s*|\Z)", re.DOTALL)
_FENCED = re.compile(r"([^\n]+)\n```json\n(.*?)\n?```\s*\Z", re.DOTALL)


def _end(text: str, seen: int) -> int:
    return behind(text, CLOSING, seen)


def _read(section: str, tools: Tools) -> list[Call]:
    body = section.removeprefix(OPENING).removesuffix(CLOSING)
    calls, place = [], 0
    while (call := _CALL.match(body, place)) is not None:
        name, text = call.groups()
        fenced = _FENCED.match(text)
        if fenced is not None:
            name, text = fenced.groups()
        calls.append((name.strip(), arguments(loaded(text))))
        place = call.end()
    if body[place:].strip():
        raise ValueError("text between calls")
    return calls


FENCE = "```"
HEAD = re.compile(
    rf"(?:{OPENING}|(?:\s*{FENCE})?\s*{END})\s*{BEGIN}"
    rf'(?:[^<"\n]*{BETWEEN}([^<"\n]+)\n```json\n|\s*([^<"\s]+)\s*{BETWEEN})\s*(?=\{{)'
)
MARKS = (OPENING, CLOSING, BEGIN, BETWEEN, END)
FAMILY = Family(_end, _read, opening=(OPENING,), marks=MARKS, head=HEAD, closing=(CLOSING, END, FENCE))
