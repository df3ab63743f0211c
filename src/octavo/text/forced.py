"""Grammars of chats: of calls that must be made, of an answer behind reasoning, of an answer or calls instead.

Invariant: what they allow is what the parser of the same request reads: parsers/forced.py reads `of_calls`. Special
tokens are named by id: a text never spells them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from octavo.core.structured import StructuredOutputsParams
from octavo.text.grammar import guided, refused
from octavo.text.parsers.marks import ANYTHING, Written

COMPACT = StructuredOutputsParams(json=True, disable_any_whitespace=True)


def of_calls(functions: Sequence[tuple[str, Any, str]], *, several: bool) -> str:
    """A JSON list of one call, or of `several`: of functions of (name, schema of the arguments, the schema's field).

    Each schema is a grammar of its own, so that its references are within it. Raises UserError.
    """
    rules = ['start: "[" call' + (' ("," call)*' if several else "") + ' "]"']
    rules.append("call: " + " | ".join(f"call{place}" for place in range(len(functions))))
    schemas = []
    for place, (name, schema, field) in enumerate(functions):
        head = '{"name":' + json.dumps(name) + ',"parameters":'
        rules.append(f'call{place}: {json.dumps(head)} @schema{place} "}}"')
        given = guided(COMPACT, _of_object(schema, field), field)
        schemas.append({"name": f"schema{place}", "json_schema": given})
    return json.dumps({"grammars": [{"name": "calls", "lark_grammar": "\n".join(rules)}, *schemas]})


def _of_object(schema: dict[str, Any] | None, field: str) -> dict[str, Any]:
    """A schema that takes nothing but objects; that of a function without parameters takes an empty one."""
    if schema is None:
        return {"type": "object", "additionalProperties": False}
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise refused(f"{field}.type", "arguments are an object")
    return schema | {"type": "object"}


def behind(grammar: str, rules: list[str] | None) -> str:
    """A text of `grammar` behind reasoning; rules: those of Thought.rules."""
    return grammar if rules is None else _around(grammar, rules)


def or_calls(grammar: str, opening: Sequence[str], written: Written) -> str:
    """A text of `grammar`, or calls: what begins with one of these marks."""
    marks = " | ".join(written(mark) for mark in opening)
    return _around(grammar, [f"start: @answer | ({marks}) REST", f"REST: {ANYTHING}"])


def _around(grammar: str, rules: list[str]) -> str:
    """Rules that speak of a grammar as @answer."""
    first, *others = json.loads(grammar)["grammars"]
    first["name"] = f"answer{len(others)}"
    text = "\n".join(rules).replace("@answer", "@" + first["name"])
    return json.dumps({"grammars": [{"lark_grammar": text}, first, *others]})
