"""Calls as FunctionGemma and Gemma 4 write them: names without quotes, strings between marks of their own.

<start_function_call>call:weather{city:<escape>Oslo<escape>,days:2}<end_function_call>
<|tool_call>call:weather{city:<|"|>Oslo<|"|>,where:{lat:59.9}}<tool_call|>
"""

from __future__ import annotations

import re
from typing import Any

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import dumped, loaded

MARKS = {"<start_function_call>": "<end_function_call>", "<|tool_call>": "<tool_call|>"}
QUOTES = ("<escape>", '<|"|>')
_HEAD = re.compile(r"\s*call:([^\s{}:]+)\s*(?=\{)")
_STRING = r'<escape>(?P<a>.*?)<escape>|<\|"\|>(?P<b>.*?)<\|"\|>'
_TOKEN = re.compile(rf"\s*(?:{_STRING}|(?P<sign>[{{}}\[\]:,])|(?P<bare>[^\s{{}}\[\]:,<][^{{}}\[\]:,<]*))\s*", re.DOTALL)


def _end(text: str, seen: int) -> int:
    """Behind the closing mark that is not within a string."""
    closing = next(closing for opening, closing in MARKS.items() if text.startswith(opening))
    if text.find(closing, max(0, seen - len(closing) + 1)) < 0:
        return -1
    for part in re.finditer(rf"{_STRING}|{re.escape(closing)}|<escape>|<\|\"\|>", text, re.DOTALL):
        if part.group() == closing:
            return part.end()
        if part.group() in QUOTES:  # a string that has not ended
            return -1
    return -1


def _read(section: str, tools: Tools) -> list[Call]:
    for opening, closing in MARKS.items():
        section = section.removeprefix(opening).removesuffix(closing)
    head = _HEAD.match(section)
    if head is None:
        raise ValueError("no call")
    tokens = list(_tokens(section[head.end() :]))
    given = _value(tokens)
    if tokens:
        raise ValueError("text behind the call")
    return [(head.group(1), dumped(given))]


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each: a string, a sign or what has no quotes, the last first."""
    found, place = [], 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or token.end() == place:
            raise ValueError("not of the form")
        kind = token.lastgroup or ""
        found.append((kind, token.group(kind)))
        place = token.end()
    return found[::-1]


def _value(tokens: list[tuple[str, str]]) -> Any:
    """Take one value."""
    kind, text = _next(tokens)
    if kind != "sign":
        return text if kind in "ab" else _bare(text.strip())
    if text == "{":
        return dict(_several(tokens, "}", _pair))
    if text == "[":
        return _several(tokens, "]", _value)
    raise ValueError(f"{text} is no value")


def _several(tokens: list[tuple[str, str]], closing: str, take: Any) -> list[Any]:
    """Values with commas between, up to the closing sign."""
    made: list[Any] = []
    while tokens and tokens[-1] != ("sign", closing):
        if made and _next(tokens) != ("sign", ","):
            raise ValueError("a comma is missing")
        made.append(take(tokens))
    _next(tokens)
    return made


def _pair(tokens: list[tuple[str, str]]) -> tuple[str, Any]:
    """name:value."""
    kind, name = _next(tokens)
    if kind == "sign" or _next(tokens) != ("sign", ":"):
        raise ValueError("a name is missing")
    return name.strip(), _value(tokens)


def _next(tokens: list[tuple[str, str]]) -> tuple[str, str]:
    if not tokens:
        raise ValueError("it ends too early")
    return tokens.pop()


def _bare(text: str) -> Any:
    """A number, true, false, null; or text."""
    try:
        return loaded(text)
    except ValueError:
        return text


FAMILY = Family(_end, _read, opening=tuple(MARKS), marks=(*MARKS, *MARKS.values(), *QUOTES))
