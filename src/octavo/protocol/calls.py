"""Tools in a chat: what may be called, what was, and what is now.

Names are checked here; schemas where they are compiled, arguments of earlier calls where the template takes them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field, field_validator

from octavo.core.errors import InvalidValue
from octavo.protocol.wire import STRICT, brief, unicode

MAX_TOOLS = 512
MAX_CALLS = 512  # of one message
MAX_DEPTH = 100  # levels of a schema
NAME = r"^[a-zA-Z0-9_.:/-]{1,128}$"
_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["type", "function"],
}
CHOICE: dict[str, Any] = {"anyOf": [{"enum": ["auto", "none", "required"]}, _NAMED]}
ONE = "function "  # a choice that names one, in our words


class Function(BaseModel):
    """A function. Its arguments are an object of the schema `parameters`, without which it has none."""

    model_config = STRICT

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Accepted; docs/tools.md says when arguments follow their schema."""

    @field_validator("parameters")
    @classmethod
    def _shallow(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        level: list[Any] = [value or {}]
        for _ in range(MAX_DEPTH):
            level = [each for part in level for each in (part.values() if isinstance(part, dict) else part)]
            level = [each for each in level if isinstance(each, (dict, list))]
        if level:
            raise InvalidValue("tools", "a schema of more levels", f"parameters of at most {MAX_DEPTH} levels")
        return value


class Tool(BaseModel):
    """A tool: so far always a function."""

    model_config = STRICT

    type: Literal["function"]
    function: Function

    def shown(self) -> dict[str, Any]:
        """The tool as a template takes it."""
        function = self.function.model_dump(exclude={"strict"})
        return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


class PastFunction(BaseModel):
    """What was called. `arguments` is the JSON text of an object."""

    model_config = STRICT

    name: str
    arguments: str = "{}"


class PastCall(BaseModel):
    """A call of an earlier answer."""

    model_config = STRICT

    id: str
    type: Literal["function"] = "function"
    function: PastFunction
    index: int | None = None
    """Left there by who joined it of a stream; changes nothing."""


def choice_of(value: Any) -> str:
    """`tool_choice` in our words. Raises InvalidValue."""
    if value in ("auto", "none", "required"):
        return str(value)
    if isinstance(value, dict) and value.get("type") == "function" and value.keys() == {"type", "function"}:
        function = value["function"]
        if isinstance(function, dict) and function.keys() == {"name"} and isinstance(function["name"], str):
            return ONE + function["name"]
    wanted = '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}'
    raise InvalidValue("tool_choice", brief(value), wanted)


def check_tools(tools: list[Tool], choice: str) -> None:
    """Names differ, and there is what must be called. Raises InvalidValue."""
    names: set[str] = set()
    for place, tool in enumerate(tools):
        if tool.function.name in names:
            raise InvalidValue(f"tools[{place}].function.name", tool.function.name, "a name that no other tool has")
        names.add(tool.function.name)
    if choice == "required" and not tools:
        raise InvalidValue("tool_choice", choice, "only together with tools")
    if choice.startswith(ONE) and choice.removeprefix(ONE) not in names:
        raise InvalidValue("tool_choice", brief(choice.removeprefix(ONE)), "the name of one of the tools")


def past_calls(field: str, calls: list[PastCall]) -> list[dict[str, Any]]:
    """Earlier calls as a template takes them. Raises InvalidValue."""
    plain = []
    for place, call in enumerate(calls):
        where = f"{field}[{place}].function"
        name, given = (
            unicode(f"{where}.name", call.function.name),
            unicode(f"{where}.arguments", call.function.arguments),
        )
        id = unicode(f"{field}[{place}].id", call.id)
        plain.append({"id": id, "type": "function", "function": {"name": name, "arguments": given}})
    return plain


class CalledFunction(msgspec.Struct):
    """What is called. `arguments` is the JSON text of an object."""

    name: str
    arguments: str


class Called(msgspec.Struct):
    """A call in a whole answer."""

    id: str
    function: CalledFunction
    type: str = "function"


class FunctionDelta(msgspec.Struct):
    """The name comes first; `arguments` of all chunks, joined, are the call's."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET


class CallDelta(msgspec.Struct):
    """What a chunk adds to the call `index` of the answer."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: str | msgspec.UnsetType = msgspec.UNSET
    function: FunctionDelta | msgspec.UnsetType = msgspec.UNSET
