"""Chat templates: equal to transformers, fed the content they expect, and refusing in words a caller understands."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from text_vocab import read

from octavo.core.errors import InvalidValue, ModelError, UserError
from octavo.text.template import MAX_TEMPLATE, ChatTemplate

CASES = read("templates.json")
TEMPLATES = {case["name"]: case["template"] for case in CASES}
USER = {"role": "user", "content": "Hi"}


def made(template: str) -> ChatTemplate:
    return ChatTemplate(template, bos="<|im_start|>", eos="<|im_end|>")


def rendered(template: str, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    return made(template).render([USER] if messages is None else messages, **variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name: str) -> None:
    template = made(TEMPLATES[name])
    cases = [case for case in CASES if case["name"] == name]
    assert len(cases) == 10 and any("text" in case for case in cases)
    for case in cases:
        if "text" in case:
            assert template.render(**case["case"]) == case["text"]
        else:
            with pytest.raises(UserError, match=re.escape(case["error"])) as error:
                template.render(**case["case"])
            assert error.value.field == "messages"


def test_one_template_serves_many_threads() -> None:
    template = made(TEMPLATES["tools"])
    cases = [case for case in CASES if case["name"] == "tools" and "text" in case] * 40
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda case: template.render(**case["case"]) == case["text"], cases))


def test_the_author_of_a_template_can_refuse() -> None:
    with pytest.raises(UserError) as error:
        rendered("{{ raise_exception('Roles must alternate!') }}")
    assert str(error.value) == "messages: Roles must alternate!" and error.value.field == "messages"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].tool.name }}", "has no attribute 'tool'"),
        ("{{ messages[0].content + 5 }}", "TypeError"),
        ("{{ messages[3]['role'] + 'x' }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ tools | tojson(indent=missing) }}", "fails on them"),
        ("{{ range | tojson }}", "not JSON serializable"),
    ],
)
def test_what_a_template_stumbles_over_is_told(template: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        rendered(template)
    assert str(error.value).startswith("messages: ")


def test_long_words_of_a_template_are_cut() -> None:
    with pytest.raises(UserError) as error:
        rendered("{{ raise_exception('x' * 5000) }}")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a\n{% if %}", "line 2"),
        ("{% for m in messages %}", "endfor"),
        ("{{ x | nonsense }}", "nonsense"),
        ("{{ x is nonsense }}", "nonsense"),
        ("{% include 'other' %}", "other templates"),
        ("{% import 'other' as o %}", "other templates"),
        ("{% from 'other' import o %}", "other templates"),
        ("{% extends 'other' %}", "other templates"),
        ("x" * (MAX_TEMPLATE + 1), str(MAX_TEMPLATE)),
        ("{{ " + "(" * 60_000 + " }}", "cannot be compiled"),
        ("{{ " + "not " * 50_000 + "x }}", "cannot be compiled"),
        ("{% if x %}" * 300 + "{% endif %}" * 300, "cannot be compiled"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_a_fault_of_the_model(template: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        made(template)


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidValue, match="at least one message"):
        rendered("{{ messages }}", [])


def test_other_variables_reach_the_template() -> None:
    template = "{{ thinking }} {{ documents[0].title }} {{ missing is defined }} {{ tools is none }} {{ bos_token }}"
    assert rendered(template, thinking=True, documents=[{"title": "T"}]) == "True T False True <|im_start|>"


@pytest.mark.parametrize("name", ["bos_token", "eos_token", "raise_exception", "range", "namespace", "_private", "__x"])
def test_variables_cannot_take_the_place_of_what_templates_rely_on(name: str) -> None:
    with pytest.raises(InvalidValue, match=name):
        rendered("{{ messages }}", **{name: "x"})


def test_the_messages_given_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    rendered("{{ messages[0].content }}", messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def test_dates_are_told() -> None:
    assert re.fullmatch(r"\d\d [A-Z][a-z]{2} \d{4}", rendered("{{ strftime_now('%d %b %Y') }}"))


TEXTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
FLAT = "{% for m in messages %}{{ m.content }}{% endfor %}"
LOOPING = "{% for m in messages %}{% for part in m['content'] %}<{{ part.text }}>{% endfor %}{% endfor %}"
ASKING = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content | list %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}"
)
VARIABLE = (
    "{% for m in messages %}{% set said = m.content %}{% for part in said %}<{{ part.text }}>{% endfor %}{% endfor %}"
)
MACRO = (
    "{% macro show(content) %}{% for part in content %}<{{ part.text }}>{% endfor %}{% endmacro %}"
    "{{ show(messages[0].content) }}"
)
SPLITTING = "{% for line in messages[0].content.split('\n') %}<{{ line }}>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "of_parts", "of_text"),
    [
        (FLAT, "one\ntwo", "Hi"),
        (LOOPING, "<one><two>", "<Hi>"),
        (ASKING, "<one><two>", "Hi"),
        (VARIABLE, "<one><two>", "<Hi>"),
        (MACRO, "<one><two>", "<Hi>"),
        (SPLITTING, "<one><two>", "<Hi>"),
    ],
)
def test_content_comes_in_the_form_the_template_expects(template: str, of_parts: str, of_text: str) -> None:
    assert rendered(template, [{"role": "user", "content": TEXTS}]) == of_parts
    assert rendered(template) == of_text


@pytest.mark.parametrize("content", [None, 5, {"a": 1}])
def test_content_of_other_kinds_is_passed_on(content: Any) -> None:
    assert rendered(FLAT, [{"role": "user", "content": content}]) == str(content)


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, {"type": "text", "text": 5}, "text", None],
)
@pytest.mark.parametrize("template", [FLAT, LOOPING])
def test_parts_that_are_not_text_are_refused(template: str, part: Any) -> None:
    with pytest.raises(InvalidValue) as error:
        rendered(template, [USER, {"role": "user", "content": [*TEXTS, part]}])
    assert error.value.field == "messages[1].content[2]"


@pytest.mark.parametrize("said", ["<", "n", "im_end", "Hi", " Good mor ", "a\n", "CONTINUE_FINAL_MESSAGE_TAG ", "é"])
@pytest.mark.parametrize("trim", ["", " | trim"])
def test_a_message_stays_open_where_its_content_ends(said: str, trim: str) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content" + trim + " }}<|im_end|>Hi\n{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": said}]
    for content, written in ((said, said), (parts, "a\n" + said)):
        text = made(template).render_open([USER, {"role": "assistant", "content": content}])
        assert text == "<|im_start|>Hi<|im_end|>Hi\n<|im_start|>" + (written.strip() if trim else written)


@pytest.mark.parametrize("content", ["", " ", None, 5, [], ["a"], [{"type": "text", "text": ""}]])
def test_a_message_without_text_cannot_stay_open(content: Any) -> None:
    with pytest.raises(UserError):
        made(FLAT).render_open([USER, {"role": "assistant", "content": content}])


def test_a_message_that_a_template_changes_cannot_stay_open() -> None:
    with pytest.raises(UserError) as error:
        made("{% for m in messages %}{{ m.content | upper }}{% endfor %}").render_open([USER])
    assert error.value.field == "continue_final_message"


def test_jinja_is_not_imported_before_a_template_is_made() -> None:
    modules = "octavo.text.template, octavo.text.tokenizer, octavo.text.detok, octavo.text.stop"
    code = (
        f"import sys, {modules}; print([m for m in ('jinja2', 'numpy', 'torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("{{ call.arguments | tojson }}", '{"city": "Oslo"}'),
        ("{% for name, value in call.arguments.items() %}{{ name }}={{ value }}{% endfor %}", "city=Oslo"),
        ("{{ '<' + call.arguments + '>' }}", '<{"city": "Oslo"}>'),
        ("{{ call.arguments }}", '{"city": "Oslo"}'),
    ],
)
@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}], ids=["text", "object"])
def test_arguments_have_the_form_that_the_template_writes(written, shown, arguments):
    loop = "{% for each in message.tool_calls or [] %}{% set call = each.function %}" + written + "{% endfor %}"
    template = made("{% for message in messages %}" + loop + "{% endfor %}")
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert template.render([{"role": "assistant", "content": "", "tool_calls": [call]}]) == shown


def test_arguments_that_are_no_object_are_refused():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1"}}
    with pytest.raises(UserError) as caught:
        made("{{ messages[0].tool_calls }}").render([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert caught.value.field == "messages[0].tool_calls[0].function.arguments"
