"""What the form of an answer is asked for by."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.core.errors import InvalidValue

FORMS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")  # of structured outputs


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must look like, with vLLM's names: exactly one of the first six. See docs/structured.md.

    json: a JSON schema, as an object or as text. json_object: any JSON object. grammar: Lark, or GBNF. structural_tag:
    an object, or its text. The next two say where JSON may hold white space, and `disable_additional_properties` that
    objects whose properties are listed hold no others unless the schema says so. `field`: where the caller wrote it.
    Raises InvalidValue, naming the field.
    """

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None
    disable_additional_properties: bool = False
    field: str = "structured_outputs"

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            raise InvalidValue(self.field, ", ".join(given) or "none", f"exactly one of {', '.join(FORMS)}")
        for form in ("regex", "grammar", "whitespace_pattern"):
            if (value := getattr(self, form)) is not None and not (value and isinstance(value, str)):
                raise InvalidValue(self.place(form), value, "a string of at least one character")
        choice = self.choice
        if choice is not None and not (isinstance(choice, list) and choice and all(isinstance(c, str) for c in choice)):
            raise InvalidValue(self.place("choice"), choice, "a list of at least one string")
        if self.json_object not in (None, True, False):
            raise InvalidValue(self.place("json_object"), self.json_object, "true or false")
        if self.whitespace_pattern is not None and self.disable_any_whitespace:
            raise InvalidValue(self.place("whitespace_pattern"), self.whitespace_pattern, "only with white space")

    def _given(self) -> list[str]:
        values = ((form, getattr(self, form)) for form in FORMS)
        return [form for form, value in values if value is not None and (value or form != "json_object")]

    @property
    def where(self) -> str:
        """Where the caller wrote the form that is given."""
        return self.place(self._given()[0])

    def place(self, form: str) -> str:
        """Where the caller wrote this form."""
        return f"{self.field}.{form}" if self.field == "structured_outputs" else self.field
