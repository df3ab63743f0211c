"""/docs: the OpenAPI document as a page to read. One page, no script, nothing fetched from elsewhere.

Invariant: the page says what the document says and nothing more; every text of the document is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import Any

from octavo.protocol.openapi import REF, document

Schema = dict[str, Any]
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
details { margin: .5rem 0; border: 1px solid #ddd; border-radius: 6px; padding: .4rem .8rem }
summary { cursor: pointer } summary b { display: inline-block; width: 3.4rem; color: #20603c }
code, summary { font-family: ui-monospace, monospace; font-size: .9rem } summary span { color: #666; margin-left: 1rem }
table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: .6rem 0 }
td, th { text-align: left; vertical-align: top; border-top: 1px solid #eee; padding: .25rem .6rem .25rem 0 }
td:first-child { white-space: nowrap; width: 15rem } td:nth-child(2) { width: 20rem }
h3 { font-size: .95rem; margin: .8rem 0 0 }
"""


@lru_cache(maxsize=1)
def page(version: str) -> str:
    """The page of a version of the server. HTML."""
    told = document(version)
    groups: dict[str, list[str]] = {}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            shown = "".join(_operation(method, path, operation))
            groups.setdefault(operation["tags"][0], []).append(shown)
    parts = [f"<h2>{escape(group)}</h2>{''.join(shown)}" for group, shown in groups.items()]
    parts.append("<h2>Types</h2>")
    parts.extend(_type(name, schema) for name, schema in told["components"]["schemas"].items())
    title = f"Octavo {escape(version)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(told['info']['description'])} For programs: "
        f'<a href="/openapi.json">/openapi.json</a>.</p>{"".join(parts)}</html>'
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    """One endpoint: what it asks, gives and refuses, to be unfolded."""
    told = f"{escape(path)}<span>{escape(operation['summary'])}</span>"
    yield f"<details><summary><b>{method.upper()}</b>{told}</summary>"
    if "requestBody" in operation:
        yield f"<p>Asks: {_shown(operation['requestBody']['content']['application/json']['schema'])}</p>"
    for status, response in operation["responses"].items():
        shapes = " or ".join(_shown(each["schema"]) for each in response["content"].values())
        yield f"<p><code>{status}</code> {escape(response['description'])}: {shapes}</p>"
    yield "</details>"


def _type(name: str, schema: Schema) -> str:
    """One type with its fields, to be unfolded."""
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{_shown(told)}{_default(key, told, key in required)}</td>"
        f"<td>{escape(told.get('description', ''))}</td></tr>"
        for key, told in schema.get("properties", {}).items()
    )
    told = escape(schema.get("description", ""))
    head = f'<details id="{escape(name)}" open><summary>{escape(name)}</summary><p>{told}</p>'
    return f"{head}<table>{rows}</table></details>"


def _default(key: str, schema: Schema, required: bool) -> str:
    """What holds where nothing is given."""
    if required:
        return ", required"
    return f", default <code>{escape(json.dumps(schema['default']))}</code>" if schema.get("default") else ""


def _shown(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(REF))
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_shown(each) for each in schema[word] if each != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return ", ".join(
            f"<code>{escape(json.dumps(value))}</code>" for value in schema.get("enum", [schema.get("const")])
        )
    kind = schema.get("type", "anything")
    if kind == "array":
        kind = f"list of {_shown(schema.get('items', {}))}"
    elif isinstance(kind, list):
        kind = " or ".join(kind)
    bounds = [told.format(schema[name]) for name, told in BOUNDS.items() if name in schema]
    return " ".join([kind, *bounds])
