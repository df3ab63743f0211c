"""From the bytes of a body to a checked request: strict JSON, strict types, nothing ignored.

Invariant: whatever the bytes, `decode` and `read` return a whole request or raise UserError naming the place at fault;
they never recurse past the interpreter's limit and never echo more than a line of what was sent. Null means "not
given", as in the OpenAI API. Does not know of HTTP, of models or of text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from octavo.core.errors import InvalidValue, UserError

M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

# schemas of fields that a validator reads in whichever form they come
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TOKENS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

# what would have been accepted, by pydantic's error type; other types speak for themselves
_ACCEPTED = {
    "string_type": "a string",
    "string_unicode": "text without lone surrogates",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object in a request body. Raises UserError with the position of the first fault."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not valid UTF-8 at byte {error.start}", code="invalid_body") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} (character {error.pos})"
        raise UserError(f"the body is not valid JSON at {place}: {error.msg}", code="invalid_body") from None
    except RecursionError:
        raise UserError("the body is nested too deeply", code="invalid_body") from None
    except ValueError:  # the interpreter's limit on the digits of an integer
        raise UserError("the body holds an integer of too many digits", code="invalid_body") from None
    if not isinstance(value, dict):
        raise UserError("the body must be a JSON object", code="invalid_body")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two equal names one would be ignored."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise UserError(f"{name!r} is given twice", name, "duplicate_parameter")
            seen.add(name)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read(
    model: type[M],
    data: Mapping[str, Any],
    neutral: Mapping[str, tuple[Any, ...]] | None = None,
    unknown: list[str] | None = None,
) -> M:
    """A checked `model` of a decoded body. unknown: takes the names of what is unknown, also to validators, as their
    context; None: such are refused.

    `neutral` lists parameters that are known but not honoured, with the values under which there is nothing to honour.
    Raises UserError for anything unknown, InvalidValue for anything else.
    """
    neutral = neutral or {}
    given = {}
    for name, value in data.items():
        if name in neutral:
            if not any(type(value) is type(same) and value == same for same in (None, *neutral[name])):
                shown = ", ".join(json.dumps(same) for same in (None, *neutral[name]))
                raise InvalidValue(name, brief(value), f"this server does not support it and accepts only {shown}")
        elif name not in model.model_fields and unknown is not None:
            unknown.append(name)
        elif name not in model.model_fields:
            raise UserError(f"{brief(name)!r} is not a parameter of this endpoint", brief(name), "unknown_parameter")
        elif value is not None:
            given[name] = value
    while True:
        try:
            return model.model_validate(given, context=unknown)
        except ValidationError as error:
            if unknown is None or not (found := _left_out(given, error)):
                raise _refusal(error) from None
            unknown += found


def _left_out(given: dict[str, Any], error: ValidationError) -> list[str]:
    """Take out of the objects within a body what the error calls unknown, and name it."""
    names = []
    for fault in error.errors(include_url=False):
        if fault["type"] == "extra_forbidden":
            place: Any = given
            *path, last = fault["loc"]
            for part in path:
                place = place[part]
            del place[last]
            names.append(_name(fault["loc"]))
    return names


def _refusal(error: ValidationError) -> UserError:
    """The first fault that pydantic found, in our words."""
    fault = error.errors(include_url=False)[0]
    field = _name(fault["loc"])
    if fault["type"] == "missing":
        return UserError(f"{field} is required", field, "missing_required_parameter")
    if fault["type"] == "extra_forbidden":
        return UserError(f"{brief(field)!r} is not a parameter here", brief(field), "unknown_parameter")
    accepted = _ACCEPTED.get(fault["type"])
    return InvalidValue(field, brief(fault["input"]), accepted or fault["msg"][0].lower() + fault["msg"][1:])


def _name(place: tuple[int | str, ...]) -> str:
    """A place in a body, as messages[0].content."""
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name


def brief(value: Any) -> Any:
    """The same value, or a small part of it: what an error may show."""
    if isinstance(value, str) and len(value) > 80:
        return value[:80] + "..."
    if isinstance(value, list) and len(value) > 8:
        return [brief(item) for item in value[:8]] + ["..."]
    if isinstance(value, dict) and len(value) > 8:
        return {brief(name): brief(value[name]) for name in list(value)[:8]}
    return value


def unicode(field: str, text: str) -> str:
    """`text`, or InvalidValue where it cannot be written as UTF-8: JSON's \\ud800 escapes can make such."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(field, text[error.start : error.start + 8], "text without lone surrogates") from None
    return text
