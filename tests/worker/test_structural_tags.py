"""Structural tags: which texts each format allows, and what is refused, by its place."""

from __future__ import annotations

import json

import pytest
import text_vocab

from octavo.core.errors import UserError
from octavo.core.structured import StructuredOutputsParams
from octavo.text.grammar import grammar_of
from octavo.worker.grammars import Grammars

TOKENIZER = text_vocab.smollm2()  # of its tokens <|im_start|>, <filename> and others are special
GRAMMARS = Grammars(lambda: TOKENIZER, 49152, tuple(TOKENIZER.eos_ids))
INTEGER = {"type": "json_schema", "json_schema": {"type": "integer"}}
WORD = {"type": "regex", "pattern": "[a-z/]+"}


def tag(begin="<a>", content=INTEGER, end="</a>"):
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def const(value):
    return {"type": "const_string", "value": value}


def triggered(**fields):
    tags = [tag("<f=one>", INTEGER, "</f>"), tag("<f=two>", WORD, "</f>")]
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": tags} | fields


def separated(**fields):
    return {"type": "tags_with_separator", "tags": [tag(), tag("<b>", WORD, "</b>")], "separator": ", "} | fields


OLD = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=one>", "schema": {"type": "integer"}, "end": "</f>"}],
    "triggers": ["<f="],
}


def accepts(given, text: str) -> bool:
    """Whether a text is whole; asserts nothing of texts that are cut."""
    if isinstance(given, dict) and given.get("type") != "structural_tag":
        given = {"type": "structural_tag", "format": given}
    grammar = grammar_of(StructuredOutputsParams(structural_tag=given), TOKENIZER)
    matcher = GRAMMARS.matcher(grammar, "structural_tag")
    return all(map(matcher.consume_token, TOKENIZER.encode(text))) and matcher.is_accepting()


CASES = [
    (const('say "é/😀\\"\n'), ['say "é/😀\\"\n'], ["say", ""]),
    (INTEGER, ["12"], ['"x"', ""]),
    (WORD, ["ab/c"], ["A"]),
    ({"type": "grammar", "grammar": 'root ::= "x" [0-9]'}, ["x1"], ["xx"]),
    ({"type": "grammar", "grammar": 'start: "x" B\nB: /[0-9]/'}, ["x1"], ["xx"]),
    ({"type": "any_text"}, ["", "what/ever\n<a>"], []),
    ({"type": "any_text", "excludes": ["no.", "//"]}, ["", "no"], ["oh no. really", "a//b"]),
    ({"type": "sequence", "elements": [const("a"), INTEGER, {"type": "any_text"}]}, ["a1 and more"], ["b1", "a"]),
    ({"type": "or", "elements": [const("a"), INTEGER]}, ["a", "7"], ["b", "a7"]),
    (tag(), ["<a>5</a>"], ["<a>x</a>", "<a>5", "5"]),
    (tag(end=["</a>", "!"]), ["<a>5</a>", "<a>5!"], ["<a>5"]),
    (tag(content={"type": "any_text"}), ["<a></a>", "<a>x<b>\n</a>"], ["<a>x", "<a>x</a>y</a>"]),
    (tag(content={"type": "any_text", "excludes": ["bad"]}), ["<a>ok</a>"], ["<a>bad</a>"]),
    (tag(begin="", content=WORD, end=""), ["ab"], ["AB", ""]),
    (tag("<think>", {"type": "or", "elements": [WORD, {"type": "any_text"}]}, "</think>"),
     ["<think>a</think>", "<think>A b</think>"], ["<think>A b"]),
    (triggered(), ["", "free", "x<f=one>1</f>y<f=two>ab</f>", "<f", "<f=one>1</f><f=one>2</f>"],
     ["<f=three>", "x<f=one>ab</f>", "<f=one>1", "x <f= y"]),
    (triggered(at_least_one=True), ["<f=one>1</f>", "<f=one>1</f> x <f=two>b</f>"], ["", "x", "x<f=one>1</f>"]),
    (triggered(stop_after_first=True), ["", "x", "x<f=one>1</f>"], ["<f=one>1</f>x", "<f=one>1</f><f=one>1</f>"]),
    (triggered(stop_after_first=True, at_least_one=True), ["<f=one>1</f>"], ["", "x", "<f=one>1</f>x"]),
    (triggered(excludes=["bad"]), ["x<f=two>bad</f>y"], ["bad", "bad<f=one>1</f>", "<f=one>1</f>bad"]),
    (tag("[", triggered(), "]"), ["[]", "[x<f=one>1</f>y]"], ["[x", "[x]y", "[<f=one>1]"]),
    (separated(), ["", "<a>1</a>", "<a>1</a>, <b>x</b>"], ["x", "<a>1</a><b>x</b>", "<a>1</a>, "]),
    (separated(at_least_one=True), ["<b>x</b>"], [""]),
    (separated(stop_after_first=True), ["", "<b>x</b>"], ["<b>x</b>, <b>x</b>"]),
    ({"type": "optional", "content": tag()}, ["", "<a>1</a>"], ["<a>1</a><a>1</a>"]),
    ({"type": "star", "content": tag()}, ["", "<a>1</a><a>1</a>"], ["x"]),
    ({"type": "plus", "content": tag()}, ["<a>1</a><a>1</a>"], [""]),
    ({"type": "repeat", "content": WORD | {"pattern": "[ab]"}, "min": 1, "max": 2}, ["a", "ab"], ["", "aba"]),
    (OLD, ["x<f=one>1</f>y", ""], ["<f=two>", "<f=one>x</f>"]),
    (json.dumps(OLD), ["x<f=one>1</f>y"], ["<f=two>"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "good", "bad"), CASES)
def test_what_a_format_allows(given, good, bad):
    assert [text for text in good if not accepts(given, text)] == []
    assert [text for text in bad if accepts(given, text)] == []


@pytest.mark.parametrize(
    ("given", "good"),
    [
        (const("a<|im_start|>b"), "a<|im_start|>b"),
        (tag("<filename>", {"type": "any_text"}, "<|im_start|>x"), "<filename>any<|im_start|>x"),
        (triggered(tags=[tag("<filename>", WORD, "</f>")], triggers=["<filename>"]), "x<filename>a</f>y"),
        (triggered(tags=[tag("<filename>", WORD, "</f>")], triggers=["<file"]), "x<filename>a</f>y"),
    ],
)
def test_the_name_of_a_special_token_is_the_token(given, good):
    assert accepts(given, good)
    assert len(TOKENIZER.encode("<filename>")) == 1


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"type": "qwen_xml_parameter", "json_schema": {}}, ".format.type"),
        ({"type": "token", "token": 5}, ".format.type"),
        ({"type": "any_text", "max_tokens": 5}, ".format.max_tokens"),
        (INTEGER | {"style": "qwen_xml"}, ".format.style"),
        (INTEGER | {"json_schema": {"uniqueItems": True, "minProperties": 5}}, ".format.json_schema"),
        (INTEGER | {"json_schema": 5}, ".format.json_schema"),
        (const(""), ".format.value"),
        (const(5), ".format.value"),
        ({"type": "const_string"}, ".format.value"),
        ({"type": "sequence", "elements": []}, ".format.elements"),
        ({"type": "sequence", "elements": [{"type": "any_text"}, const("x")]}, ".format.elements[0]"),
        ({"type": "star", "content": {"type": "any_text"}}, ".format.content"),
        (tag(end={"type": "token", "token": 5}), ".format.end"),
        (tag(end=["", "x"]), ".format.end"),
        (tag(content={"type": "any_text"}, end="x<|im_start|>"), ".format.content"),
        (triggered(triggers=["<f=", "<f"]), ".format.tags[0].begin"),
        (triggered(triggers=["<g="]), ".format.tags[0].begin"),
        (triggered(at_least_one=1), ".format.at_least_one"),
        (triggered(tags=[5]), ".format.tags[0]"),
        ({"type": "repeat", "content": INTEGER, "min": 2, "max": 1}, ".format.max"),
        ({"type": "structural_tag", "structures": [{"begin": "a"}], "triggers": ["a"]}, ".structures[0].schema"),
        ({"type": "structural_tag", "structures": []}, ".triggers"),
        ({"type": "structural_tag"}, ".format"),
        ({"type": "structural_tag", "format": INTEGER, "other": 1}, ".other"),
        ("{", ""),
        ("5", ""),
    ],
)
def test_what_is_not_supported_is_refused_by_its_place(given, place):
    with pytest.raises(UserError) as error:
        accepts(given, "")
    assert error.value.field == f"structured_outputs.structural_tag{place}"
    assert str(error.value).startswith(error.value.field)


def test_deep_formats_are_refused():
    deep = INTEGER
    for _ in range(200):
        deep = {"type": "optional", "content": deep}
    with pytest.raises(UserError, match="32 deep"):
        accepts(deep, "")
