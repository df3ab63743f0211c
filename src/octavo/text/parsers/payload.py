"""JSON between marks: where it ends, and what it says.

Invariant: `arguments` gives JSON that every reader takes: no NaN, no infinity, no half characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from octavo.text.parsers.calls import Call

_STRING = r'"(?:[^"\\]|\\.)*"?'  # to the end of the text where it is not closed
_PARTS = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)


def behind(text: str, mark: str, seen: int) -> int:
    """Where the first `mark` that is not within a JSON string ends; -1 if there is none. `seen`: as in Family.end."""
    if text.find(mark, max(0, seen - len(mark) + 1)) < 0:
        return -1
    for part in re.finditer(f"{_STRING}|{re.escape(mark)}", text, re.DOTALL):
        if part.group() == mark:
            return part.end()
    return -1


def balanced(text: str, start: int, seen: int, parts: re.Pattern[str] = _PARTS) -> int:
    """Where the brackets that open behind `start` are all closed; -1 if they are not yet. `seen`: as in Family.end.

    parts: what finds brackets, and strings, so that those within are not counted.
    """
    if not any(closer in text[seen:] for closer in "]}"):
        return -1
    depth = 0
    for part in parts.finditer(text, start):
        letter = part.group()
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth <= 0:
                return part.end()
    return -1


def loaded(text: str) -> Any:
    """The value of a JSON text. Raises ValueError."""
    return json.loads(text, parse_constant=_refused)


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def dumped(value: Any) -> str:
    """JSON of a value. Raises ValueError."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except UnicodeEncodeError:  # half characters, which JSON spells \ud800
        text = json.dumps(value)
    return text


def arguments(value: Any) -> str:
    """Arguments as JSON, from an object, or from text that holds one. Raises ValueError."""
    if isinstance(value, str):
        value = loaded(value)
    if value is not None and not isinstance(value, dict):
        raise ValueError("arguments are an object")
    return dumped(value or {})


def headed(marks: Sequence[str], *keys: str) -> re.Pattern[str]:
    """Family.head of an object with name and arguments, under one of `keys`: behind a mark, in a list, or neither."""
    before = rf"\}}\s*,\s*|(?:(?:{'|'.join(map(re.escape, marks))})\s*)?(?:\[\s*)?"
    return re.compile(rf'\s*(?:{before})\{{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:{"|".join(keys)})"\s*:\s*(?=\{{)')


def called(value: Any, keys: Sequence[str] = ("arguments",)) -> Call:
    """The call that an object describes; its arguments stand under one of `keys`, or are none. Raises ValueError."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("a call is an object with a name")
    found = next((key for key in keys if key in value), None)
    if found is None and any(isinstance(part, (dict, list)) for part in value.values()):
        raise ValueError("the arguments stand elsewhere")
    return value["name"], arguments(None if found is None else value[found])


def listed(value: Any, keys: Sequence[str] = ("arguments",)) -> list[Call]:
    """The calls of one object or of several in a list. Raises ValueError."""
    return [called(each, keys) for each in (value if isinstance(value, list) else [value])]
