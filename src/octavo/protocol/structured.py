"""The fields that say what an answer must look like: OpenAI's `response_format` and vLLM's `structured_outputs`.

Types are checked here, schemas and grammars where they are compiled.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from octavo.core.errors import InvalidValue
from octavo.core.structured import StructuredOutputsParams
from octavo.protocol.wire import STRICT

TAGS = ("format", "structures", "triggers")
SCHEMA: dict[str, Any] = {"anyOf": [{"type": "object"}, {"type": "boolean"}, {"type": "string"}]}


class NamedSchema(BaseModel):
    """A JSON schema with a name of the caller's. `strict` or not, the answer follows the schema."""

    model_config = ConfigDict(**STRICT, protected_namespaces=())

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    definition: Annotated[Any, WithJsonSchema({"type": "object"})] = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """text: anything. json_object: any JSON object. json_schema: JSON of a schema. structural_tag: tags in text."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    format: Annotated[Any, WithJsonSchema({"type": "object"})] = None
    """XGrammar's format of a structural tag."""
    structures: Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object"}})] = None
    """Of the old form of structural tags: begin, schema and end of each."""
    triggers: list[str] | None = None
    """Of the old form: what tags begin with, one of these each."""

    def params(self) -> StructuredOutputsParams | None:
        """What it asks for; None for text. Raises InvalidValue."""
        tags = {name: value for name in TAGS if (value := getattr(self, name)) is not None}
        if self.type == "structural_tag" and self.json_schema is None:
            return StructuredOutputsParams(structural_tag=tags, field="response_format")
        if tags:
            raise InvalidValue(f"response_format.{next(iter(tags))}", "given", "only with type structural_tag")
        if self.type != "json_schema":
            if self.json_schema is not None:
                raise InvalidValue("response_format.json_schema", "given", "only with type json_schema")
            return StructuredOutputsParams(json_object=True, field="response_format") if self.type != "text" else None
        if self.json_schema is None or self.json_schema.definition is None:
            raise InvalidValue("response_format.json_schema.schema", None, "a JSON schema")
        return StructuredOutputsParams(json=self.json_schema.definition, field="response_format.json_schema.schema")


class StructuredOutputs(BaseModel):
    """Exactly one of json (a schema), regex, choice, grammar (Lark or GBNF), json_object and structural_tag."""

    model_config = STRICT

    json_: Annotated[Any, WithJsonSchema(SCHEMA)] = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})] = None
    """Tags with a form in free text: an object with `format`, or with `structures` and `triggers`; or its text."""
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None
    disable_additional_properties: bool = False
    """Objects whose properties a schema lists hold no others, where it does not say so itself."""
