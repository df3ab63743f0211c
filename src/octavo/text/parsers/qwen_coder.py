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
_VALUE = r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>"
_PARAMETER = re.compile(rf"{_VALUE}(?=\s*(?:<parameter=|</function>|\Z))", re.DOTALL)
_CERTAIN = re.compile(rf"{_VALUE}(?=\s*(?:<parameter=|</function>))", re.DOTALL)  # whatever comes behind it
_NEXT = ("<parameter=", "</function>")
_CLOSED = re.compile(r"\s*</function>\s*")
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
        given: dict[str, Any] = {}
        place = begin.end()
        while (parameter := _PARAMETER.match(body, place)) is not None:
            _take(given, parameter, begin.group(1), tools)
            place = parameter.end()
        done = _DONE.match(body, place)
        if done is None:
            raise ValueError("a function that does not end")
        calls.append((begin.group(1), dumped(given)))
        place = done.end()
    if body[place:].strip():
        raise ValueError("text between functions")
    return calls


def _take(given: dict[str, Any], parameter: re.Match[str], tool: str, tools: Tools) -> str:
    """Add a parameter to those given; its name. Raises ValueError where it is there already."""
    properties = tools.get(tool, {}).get("properties", {})
    name, text = parameter.groups()
    if name in given:
        raise ValueError("a parameter that is given twice")
    given[name] = _value(text, properties.get(name) if isinstance(properties, dict) else None)
    return name


class Parameters:
    """The arguments of one call, each given out when what ends it is there."""

    def __init__(self, tool: str, tools: Tools) -> None:
        self.done = False
        self._tool = tool
        self._tools = tools
        self._given: dict[str, Any] = {}
        self._sent = ""
        self._seen = 0
        self._broken = False

    def push(self, text: str, start: int, end: int) -> tuple[int, str]:
        """As in calls.Reader."""
        news, place = "" if self._sent else "{", start
        looks = any(text.find(mark, max(0, self._seen - len(mark) + 1), end) >= 0 for mark in _NEXT)
        self._seen = end
        while looks and not self._broken and (parameter := _CERTAIN.match(text, place, end)) is not None:
            comma = ", " if self._given else ""
            try:
                name = _take(self._given, parameter, self._tool, self._tools)
                news += comma + dumped({name: self._given[name]})[1:-1]
            except ValueError:
                self._broken = True
            else:
                place = parameter.end()
        if looks and not self._broken and (closed := _CLOSED.match(text, place, end)) is not None:
            place, news, self.done = closed.end(), news + "}", True
        self._sent += news
        return place, news

    def rest(self, arguments: str) -> str:
        """As in calls.Reader."""
        return arguments[len(self._sent) :] if arguments.startswith(self._sent) else ""


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


HEAD = re.compile(rf"\s*(?:{OPENING})?\s*<function=([^<>\s]+)>(?=\s*(?:{'|'.join(_NEXT)}))")
FAMILY = Family(
    _end,
    _read,
    opening=(OPENING, FUNCTION),
    marks=(OPENING, CLOSING),
    head=HEAD,
    closing=(CLOSING, "</function>"),
    reader=Parameters,
)
