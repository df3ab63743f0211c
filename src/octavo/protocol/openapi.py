"""The OpenAPI document of the server: what each endpoint asks and gives, taken from the types that read and write it.

Invariant: an endpoint that is not in `OPERATIONS` is not served, and the other way round (a test compares); a field is
described where it is declared, nowhere else. Null stands for "not given" in every field of a request.

Source: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import BaseModel

from octavo.protocol.chat import NEUTRAL_CHAT, ChatChunk, ChatCompletion, ChatRequest
from octavo.protocol.completions import NEUTRAL_COMPLETION, Completion, CompletionRequest
from octavo.protocol.errors import ErrorBody
from octavo.protocol.models import ModelCard, ModelList
from octavo.protocol.pooling import (
    Classifications,
    ClassifyRequest,
    EmbeddingRequest,
    Embeddings,
    PooledVectors,
    PoolingRequest,
    Ranking,
    RerankRequest,
    ScoreRequest,
    Scores,
)
from octavo.protocol.status import Live, Readiness, Version
from octavo.protocol.tokens import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest

Schema = dict[str, Any]
REF = "#/components/schemas/"

_ERRORS = {
    400: "A field is wrong: the error names it, its value and what would do",
    401: "A key is missing or wrong",
    404: "There is no such model or path",
    405: "The path does not answer this method",
    408: "The request did not come in time",
    413: "The body, or the prompt, is too large",
    415: "The body is not application/json",
    429: "Too many requests wait already: try again later",
    500: "A fault of the server",
    503: "The engine is loading, draining or starting again: try again later",
}
_READS = (401, 404, 405, 429, 500)
_ASKS = (400, 401, 404, 405, 408, 413, 415, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `asks` None: no body; `streams`: the type of each event where `stream` is true.

    neutral: fields known but not honoured, with the values under which there is nothing to honour. gives None: text.
    """

    method: str
    path: str
    group: str
    summary: str
    gives: type[msgspec.Struct] | None
    asks: type[BaseModel] | None = None
    streams: type[msgspec.Struct] | None = None
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    errors: tuple[int, ...] = _ASKS


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Generation",
        "Continue a conversation",
        ChatCompletion,
        ChatRequest,
        ChatChunk,
        NEUTRAL_CHAT,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Generation",
        "Continue texts",
        Completion,
        CompletionRequest,
        Completion,
        NEUTRAL_COMPLETION,
    ),
    Operation("post", "/v1/embeddings", "Pooling", "Embeddings of texts", Embeddings, EmbeddingRequest),
    Operation("post", "/pooling", "Pooling", "Whatever the model gives of texts", PooledVectors, PoolingRequest),
    Operation("post", "/classify", "Pooling", "Labels of texts", Classifications, ClassifyRequest),
    *(
        Operation("post", path, "Pooling", "How well pairs of texts go together", Scores, ScoreRequest)
        for path in ("/score", "/v1/score")
    ),
    *(
        Operation("post", path, "Pooling", "Documents, the best answers to a query first", Ranking, RerankRequest)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    Operation("get", "/v1/models", "Models", "All names of the model", ModelList, errors=_READS),
    Operation("get", "/v1/models/{name}", "Models", "One name of the model", ModelCard, errors=_READS),
    Operation("post", "/tokenize", "Tokens", "Text or a conversation to token ids", Tokenized, TokenizeRequest),
    Operation("post", "/detokenize", "Tokens", "Token ids to text", Detokenized, DetokenizeRequest),
    Operation("get", "/live", "Status", "The process answers", Live, errors=(405,)),
    Operation("get", "/ready", "Status", "Requests are accepted now", Readiness, errors=(405, 503)),
    Operation("get", "/health", "Status", "The same as /ready", Readiness, errors=(405, 503)),
    Operation("get", "/version", "Status", "The version of the server", Version, errors=(405,)),
    Operation("get", "/metrics", "Status", "The page for Prometheus", None, errors=(405,)),
)


def document(version: str) -> dict[str, Any]:
    """The OpenAPI document, as plain data."""
    schemas = _given()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if operation.asks is not None:
            schemas |= _asked(operation.asks, operation.neutral)
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Octavo", "version": version, "description": "An LLM serving engine, over the OpenAI API."},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    """One operation of the document."""
    made: dict[str, Any] = {
        "operationId": operation.method + operation.path.translate(str.maketrans("/{}", "_" * 3)),
        "tags": [operation.group],
        "summary": operation.summary,
        "responses": dict(_responses(operation)),
    }
    if operation.asks is not None:
        schema = {"$ref": REF + operation.asks.__name__}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{name}" in operation.path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        made["parameters"] = [name]
    if 401 in operation.errors:
        made["security"] = [{"key": []}, {}]  # a key where the server has any
    return made


def _responses(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Responses by status."""
    if operation.gives is None:
        content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": {"$ref": REF + operation.gives.__name__}}}
    told = "The answer"
    if operation.streams is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}}
        told += f"; where `stream` is true, events of {operation.streams.__name__} and then [DONE]"
    yield "200", {"description": told, "content": content}
    for status in operation.errors:
        # Not ready is a report, not an error.
        kind = "Readiness" if operation.gives is Readiness and status == 503 else ErrorBody.__name__
        body = {"application/json": {"schema": {"$ref": REF + kind}}}
        yield str(status), {"description": _ERRORS[status], "content": body}


def _given() -> dict[str, Schema]:
    """Schemas of all answers, by the names of their types."""
    found = (kind for operation in OPERATIONS for kind in (operation.gives, operation.streams) if kind)
    kinds = {ErrorBody, *found}
    _, components = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    return {name: _told(schema) for name, schema in components.items()}


def _asked(kind: type[BaseModel], neutral: Mapping[str, tuple[Any, ...]]) -> dict[str, Schema]:
    """The schema of a request and of what it consists of."""
    schema = kind.model_json_schema(ref_template=REF + "{model}")
    parts: dict[str, Schema] = schema.pop("$defs", {})
    properties, required = schema["properties"], schema.get("required", ())
    for name, told in properties.items():
        if name not in required:
            properties[name] = _or_null(told)
    for name, values in neutral.items():
        shown = {"enum": [None, *values], "description": "Known, not supported: only what changes nothing is accepted."}
        properties[name] = shown
    parts[kind.__name__] = schema
    return {name: _told(part) for name, part in parts.items()}


def _or_null(schema: Schema) -> Schema:
    """A schema that takes null too."""
    if schema.get("type") == "null" or {"type": "null"} in schema.get("anyOf", ()) or None in schema.get("enum", ()):
        return schema
    kept: Schema = {name: schema.pop(name) for name in ("title", "description", "default") if name in schema}
    return {**kept, "anyOf": [schema, {"type": "null"}]}


def _told(schema: Schema) -> Schema:
    """A schema without the titles that only repeat names, its description on one line."""
    schema.pop("title", None)
    for told in (schema, *schema.get("properties", {}).values()):
        told.pop("title", None)
        if "description" in told:
            told["description"] = " ".join(told["description"].split())
    return schema


@lru_cache(maxsize=1)
def encoded(version: str) -> bytes:
    """The document as JSON."""
    return json.dumps(document(version), indent=1, ensure_ascii=False).encode()
