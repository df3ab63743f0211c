"""Calls as Python writes them, in a list: Llama 3.2 and 4 and others as the answer, or between marks; so does LFM2.

[weather(city="Oslo", days=2), time()]
"""

from __future__ import annotations

import ast
import re
from typing import Any

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Tools
from octavo.text.parsers.payload import balanced, dumped

MARKS = {"<|python_start|>": "<|python_end|>", "<|tool_call_start|>": "<|tool_call_end|>"}
_PARTS = re.compile(r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|[()\[\]{}]""", re.DOTALL)
_BEGUN = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*(?:\(|\Z)|\Z)")  # a list of calls, as far as it goes
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAMES = {"true": True, "false": False, "null": None}


def _end(text: str, seen: int) -> int:
    """Between marks, the closing one; else the list's end, or at once where it is no list of calls."""
    for opening, closing in MARKS.items():
        if text.startswith(opening):
            place = text.find(closing, max(0, seen - len(closing) + 1))
            return -1 if place < 0 else place + len(closing)
    return balanced(text, 0, seen, _PARTS) if _BEGUN.match(text) else 1


def _read(section: str, tools: Tools) -> list[Call]:
    for opening, closing in MARKS.items():
        section = section.removeprefix(opening).removesuffix(closing)
    try:
        tree = ast.parse(_ESCAPE.sub(_kept, section.strip()), mode="eval").body
    except SyntaxError as error:
        raise ValueError("no Python") from error
    listed = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_call(node) for node in listed]


def _kept(escape: re.Match[str]) -> str:
    """An escape; a backslash that begins none, of which Python would warn, stands for itself."""
    return escape.group() if escape.group(1) in "\\'\"abfnrtvxuU\n" else "\\" + escape.group()


def _call(node: ast.expr) -> Call:
    """name(key=value, ...)."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with named arguments")
    given = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** names no argument")
        given[keyword.arg] = _value(keyword.value)
    return ast.unparse(node.func), dumped(given)


def _value(node: ast.expr) -> Any:
    """A literal, in Python's words or in JSON's."""
    if isinstance(node, ast.List):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        names = [ast.literal_eval(key) if key is not None else None for key in node.keys]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names are strings")
        return dict(zip(names, (_value(each) for each in node.values), strict=True))
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    try:
        return ast.literal_eval(node)
    except TypeError as error:
        raise ValueError("no literal") from error


FAMILY = Family(_end, _read, opening=tuple(MARKS), leading=("[",), marks=(*MARKS, *MARKS.values()), apart=False)
