"""What llguidance takes and would not keep is kept or refused: see docs/structured.md."""

from __future__ import annotations

import pytest
import text_vocab

from octavo.core.errors import UserError
from octavo.core.request import StructuredOutputsParams
from octavo.text.grammar import grammar_of
from octavo.worker.grammars import Grammars

TOKENIZER = text_vocab.smollm2()
GRAMMARS = Grammars(lambda: TOKENIZER, 49152, tuple(TOKENIZER.eos_ids))
LISTED = {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": {"type": "string"}}
PATTERN = {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}


def accepts(schema: object, text: str) -> bool:
    matcher = GRAMMARS.matcher(grammar_of(StructuredOutputsParams(json=schema)), "json")
    return all(map(matcher.consume_token, TOKENIZER.encode(text, special=False))) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "text"),
    [(LISTED, r'{"a":1,"\u0061":"x"}'), (LISTED, '{"a":1,"a":"x"}'), (PATTERN, r'{"\u0061":"x"}'), ({}, r'"\u0007"')],
)
def test_a_key_has_one_spelling(schema, text):
    assert not accepts(schema, text)


@pytest.mark.parametrize("text", ['{"a":1,"b":"x"}', r'{"a":1,"\n\t\\\"":"é😀"}'])
def test_other_keys_are_free(text):
    assert accepts(LISTED, text)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"additionalProperties": {"type": "integer"}, "minProperties": 2}, "minProperties 2"),
        ({"anyOf": [{"type": "null"}, {"type": "object", "minProperties": 3, "required": ["a"]}]}, "minProperties 3"),
        ({"enum": ["x", {"y": ["\x1b[0m"]}]}, "control characters"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use anyOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "regex"}, "format"),
        (False, "nothing"),
    ],
)
def test_what_would_not_be_kept_is_refused(schema, reason):
    with pytest.raises(UserError, match=reason):
        accepts(schema, "")


def test_as_many_properties_as_are_required_and_one_are_kept():
    schema = {"minProperties": 2, "required": ["a"], "additionalProperties": {"type": "integer"}}
    assert accepts(schema, '{"a":1,"b":2}')
    assert not accepts(schema, '{"a":1}')
    assert not accepts(schema, '{"a":1,"a":2}')
