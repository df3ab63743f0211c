"""Calls as Qwen3-Coder writes them: tags, whose values are read by the type that the tool's schema gives them.

<tool_call>
<function=weather>
<parameter=city>
Oslo
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import dumped, loaded

OPENING, CLOSING = "<tool_call>", "</tool_call>"
FUNCTION = "<function="  # the tag around it is sometimes forgotten
_END = re.compile(r"</function>\s*</tool_call>")
_BEGIN = re.compile(r"\s*<function=([^<>\s]+)>")
_PARAMETER = re.compile(
    r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|</function>|\Z))", re.DOTALL
)
_DONE = re.compile(r"\s*(?:</function>\s*|\Z)")
_SPELLED = {"none": None, "true": True, "false": False}  # in Python's words too


def _end(text: str, seen: int) -> int:
    if text.find(CLOSING, max(0, seen - len(CLOSING) + 1)) < 0:
        return -1
    found = _END.search(text)
    return -1 if found is None else found.end()


def _read(section: str, tools: Tools) -> list[Call]:
    body = section.removeprefix(OPENING).removesuffix(CLOSING)
    calls, place = [], 0
    while (begin := _BEGIN.match(body, place)) is not None:
        properties = tools.get(begin.group(1), {}).get("properties", {})
        given, place = {}, begin.end()
        while (parameter := _PARAMETER.match(body, place)) is not None:
            name, text = parameter.groups()
            given[name] = _value(text, properties.get(name) if isinstance(properties, dict) else None)
            place = parameter.end()
        done = _DONE.match(body, place)
        if done is None:
            raise ValueError("a function that does not end")
        calls.append((begin.group(1), dumped(given)))
        place = done.end()
    if body[place:].strip():
        raise ValueError("text between functions")
    return calls


def _value(text: str, schema: Any) -> Any:
    """A value as its schema wants it; text where it is no such."""
    kinds = _kinds(schema)
    if text.lower() in ("null", "none") and ("null" in kinds or "string" not in kinds):
        return None
    if "string" in kinds:
        return text
    try:
        return loaded(text)
    except (ValueError, RecursionError):
        return _SPELLED.get(text.lower(), text)


def _kinds(schema: Any) -> set[str]:
    """The types that a schema allows; string where it names none."""
    if not isinstance(schema, Mapping):
        return {"string"}
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else {each for each in kind or () if isinstance(each, str)}
    for each in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        kinds |= _kinds(each)
    return kinds or {"string"}


FAMILY = Family(_end, _read, opening=(OPENING, FUNCTION), marks=(OPENING, CLOSING))
