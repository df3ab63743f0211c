"""What llguidance takes and would not keep is kept or refused; what requests hold stays: see docs/structured.md."""

from __future__ import annotations

import json
import threading

import jsonschema
import msgspec
import pytest
import text_vocab

from octavo.core.errors import UserError
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.text.grammar import MAX_CHOICES, grammar_of
from octavo.worker.grammars import KEPT, KEPT_TEXT, Grammars

TOKENIZER = text_vocab.smollm2()
GRAMMARS = Grammars(lambda: TOKENIZER, 49152, tuple(TOKENIZER.eos_ids))
LISTED = {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": {"type": "string"}}
PATTERN = {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}


def accepts(schema: object, text: str, **how: bool) -> bool:
    matcher = GRAMMARS.matcher(grammar_of(StructuredOutputsParams(json=schema, **how)), "json")
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


def test_properties_that_are_not_listed_can_be_forbidden():
    inner = {"type": "object", "properties": {"properties": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"a": inner, "b": {"type": "object"}, "c": LISTED}}
    for text, kept in (
        ('{"a":{"properties":1},"b":{"x":1},"c":{"a":1,"b":"x"}}', True),
        ('{"a":{"properties":1,"x":2}}', False),
        ('{"a":{},"x":1}', False),
    ):
        assert accepts(schema, text)
        assert accepts(schema, text, disable_additional_properties=True) == kept


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


@pytest.mark.filterwarnings("ignore:Possible")  # of Python, which may read them as Rust does one day
@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("^[^a&&b]+$", ["c", "[", "~~"], ["a", "&", "b"]),
        ("^[a&&b]$", ["a", "&", "b"], ["c"]),
        ("^[+--]$", ["+", ",", "-"], ["."]),
        ("^[--/]$", ["-", ".", "/"], ["+"]),
        ("^[a~~b]$", ["~"], ["c"]),
        ("^[^[]$", ["a", "]"], ["["]),
        ("^[[a]b]$", ["[b]", "ab]"], ["a", "b"]),
        ("^[[:alpha:]]$", ["a]", ":]"], ["a", "z"]),
        (r"^[\d-]$", ["7", "-"], ["w"]),
        (r"^[\x41-\u0043\]^-]$", ["A", "B", "C", "]", "^", "-"], ["D", "\\"]),
        (r"^\[a&&b\]$", ["[a&&b]"], ["a"]),
    ],
)
def test_classes_of_characters_mean_what_they_mean_in_json_schema(pattern, texts, others):
    for schema, shape in (
        ({"type": "string", "pattern": pattern}, '"{}"'),
        ({"patternProperties": {pattern: {}}, "additionalProperties": False}, '{{"{}":1}}'),
    ):
        for text in (*texts, *others):
            said = shape.format(text.replace("\\", "\\\\"))
            assert (jsonschema.validators.Draft202012Validator(schema).is_valid(json.loads(said))) == (text in texts)
            assert accepts(schema, said) == (text in texts), said


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"const": {"type": "integer", "description": "\x07"}}}, '{"const":1}'),
        ({"type": "integer", "default": {"minProperties": 9}, "examples": ["\x07"]}, "1"),
        ({"const": {"pattern": "[a&&b]"}}, '{"pattern":"[a&&b]"}'),
    ],
)
def test_what_is_no_keyword_is_not_read_as_one(schema, text):
    assert accepts(schema, text)


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        (r'root ::= "\u00e9" | "\U0001F600" | "\\u00e9" | "\u0022"', ["é", "😀", "\\u00e9", '"'], ["e"]),
        ("root ::= [a&&b]", ["a", "&", "b"], ["c"]),
        ("root ::= [^a~~b]", ["c"], ["a", "~", "b"]),
        ("root ::= .", ["a", "\n", "😀"], ["", "ab"]),
        ('root ::= start "."\nstart ::= "a" | "[.]" # .', ["a.", "[.]."], ["aa"]),
        ('start: "a ::= " /[0-9]/', ["a ::= 1"], ["a"]),
    ],
)
def test_gbnf_means_what_it_means_in_llama_cpp(grammar, texts, others):
    matcher = GRAMMARS.matcher(grammar_of(StructuredOutputsParams(grammar=grammar)), "grammar")
    for text in (*texts, *others):
        made = matcher.deep_copy()
        said = all(map(made.consume_token, TOKENIZER.encode(text, special=False)))
        assert (said and made.is_accepting()) == (text in texts), text


@pytest.mark.parametrize("grammar", ['root ::= "\\ud800"', 'root ::= "\\UFFFFFFFF"', 'root ::= "\\u12"', "root ::= [a"])
def test_gbnf_that_is_none_is_refused(grammar):
    with pytest.raises(UserError):
        GRAMMARS.matcher(grammar_of(StructuredOutputsParams(grammar=grammar)), "grammar")


@pytest.mark.parametrize(
    "choices", [["a", "ab", "abc"], ["", "é😀", "é", '"\\\n'], [f"{n}" for n in range(MAX_CHOICES)]]
)
def test_each_of_many_choices_may_be_said_and_nothing_else(choices):
    matcher = GRAMMARS.matcher(grammar_of(StructuredOutputsParams(choice=choices)), "choice")
    for text, listed in [*((choice, True) for choice in choices), ("x", False), (choices[-1] + "x", False)]:
        made = matcher.deep_copy()
        said = all(map(made.consume_token, TOKENIZER.encode(text, special=False)))
        assert (said and made.is_accepting()) == listed, text


def test_as_many_properties_as_are_required_and_one_are_kept():
    schema = {"minProperties": 2, "required": ["a"], "additionalProperties": {"type": "integer"}}
    assert accepts(schema, '{"a":1,"b":2}')
    assert not accepts(schema, '{"a":1}')
    assert not accepts(schema, '{"a":1,"a":2}')


class Counting(Grammars):
    """Counts what is compiled."""

    def __init__(self, most: int) -> None:
        super().__init__(lambda: TOKENIZER, 49152, tuple(TOKENIZER.eos_ids), most=most)
        self.compiled: list[str] = []

    def _compile(self, grammar, field):
        self.compiled.append(grammar)
        return super()._compile(grammar, field)


def request(number: int, name: str = "") -> Request:
    grammar = grammar_of(StructuredOutputsParams(choice=[f"a{number}"]))
    return Request(
        id=name or str(number), prompt=[1], sampling=SamplingParams(), grammar=grammar, grammar_field="grammar"
    )


def test_what_a_request_holds_stays_whatever_others_ask():
    grammars = Counting(most=KEPT * 3)
    first = request(0)
    grammars.hold(first)
    for number in range(1, KEPT + 10):
        grammars.hold(request(number))
        grammars.release(str(number))
    before = list(grammars.compiled)
    assert grammars.take(first)
    grammars.matcher(first.grammar, "grammar")
    assert grammars.compiled == before
    assert not grammars.take(request(1))  # nobody held it, and others came
    grammars.release("0")
    assert grammars.take(request(0, "again"))  # among the last


def test_large_grammars_that_nobody_holds_are_few():
    grammars = Counting(most=KEPT)
    large = [request(number) for number in range(4)]
    large = [msgspec.structs.replace(each, grammar=each.grammar + " " * (KEPT_TEXT // 3)) for each in large]
    for each in (*large, small := request(5)):
        grammars.hold(each)
    for each in (*large, small):
        grammars.release(each.id)
    assert not any(map(grammars.take, large[:2]))
    assert all(map(grammars.take, [*large[2:], small]))


def test_one_more_grammar_than_may_be_waits_for_a_request_to_end():
    grammars, done = Counting(most=2), threading.Event()
    grammars.hold(request(0))
    grammars.hold(request(1))
    grammars.hold(request(1, "same"), wait=True)  # not a grammar more
    thread = threading.Thread(target=lambda: (grammars.hold(request(2), wait=True), done.set()))
    thread.start()
    assert not done.wait(0.05)
    grammars.release("1")
    assert not done.wait(0.05)
    grammars.release("same")
    assert done.wait(10)
    thread.join()
    grammars.hold(request(3))  # who does not wait is served
    for name in ("0", "2", "3", "3", "unknown"):
        grammars.release(name)
    assert len(grammars._kept) == 4
    assert not grammars._holders
