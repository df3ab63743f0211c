"""Calls and reasoning read out of text: each documented form, cut anywhere, whole or damaged."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from octavo.text.parsers import registry
from octavo.text.parsers.calls import Calls
from octavo.text.parsers.events import Arguments, CallBegun, Chain, Content, Plain, Reasoning
from octavo.text.parsers.forced import Forced

TOOLS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"}},
    },
    "time": {},
}
OSLO = {"city": 'Oslo </tool_call> "é" }]', "days": 2}


def calls(name, **how):
    return Calls(registry.family(name), TOOLS, **how)


def summary(events, *, plain=False):
    """(reasoning, content, calls as (name, arguments)); and that the events are in order. plain: arguments as text."""
    thought, said, made = "", "", []
    for event in events:
        if isinstance(event, Reasoning):
            thought += event.text
        elif isinstance(event, Content):
            said += event.text
        elif isinstance(event, CallBegun):
            assert event.index == len(made)
            made.append([event.name, ""])
            assert len(event.id) == 9 and event.id.isalnum()
        else:
            assert isinstance(event, Arguments)
            assert event.index == len(made) - 1
            made[-1][1] += event.text
    return thought, said, [(name, arguments if plain else json.loads(arguments)) for name, arguments in made]


def fed(parser, *pieces):
    """What a parser makes of a text in these pieces."""
    return summary([event for piece in pieces for event in parser.push(piece)] + parser.finish())


def line(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


FORMS = {  # parser: (text, content, calls)
    "hermes": [
        (f"<tool_call>\n{line('weather', **OSLO)}\n</tool_call>", "", [("weather", OSLO)]),
        (f"I look.\n<tool_call>{line('weather', days=1)}</tool_call>\n<tool_call>{line('time')}</tool_call>\n",
         "I look.", [("weather", {"days": 1}), ("time", {})]),
        ('<tool_call>\n{"name": "time"}', "", [("time", {})]),
        ("<tool_call>{\"name\": \"time\", \"arguments\": \"{}\"}</tool_call>", "", [("time", {})]),
    ],
}  # fmt: skip
BROKEN = {  # parser: texts without any call in them, all of which are content
    "hermes": [
        "Plain text, with < and <tool and {braces}. ",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"days\": }}</tool_call>",
        "<tool_call>{\"name\": \"nobody\", \"arguments\": {}}</tool_call> and so on",
        "<tool_call>{\"name\": \"time\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": NaN}}</tool_call>",
        "<tool_call>{\"name\": \"time\", \"arguments\": {\"a\": 1e999}}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>\n{\"name\": \"time\", \"argu",
        "<tool_call",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
}  # fmt: skip
CASES = [(name, *form) for name, forms in FORMS.items() for form in forms]
ALL_BROKEN = [(name, text) for name, texts in BROKEN.items() for text in texts]


def test_every_parser_is_tested():
    assert FORMS.keys() == BROKEN.keys() == {row.name for row in registry.TOOLS}


@pytest.mark.parametrize(("name", "text", "content", "made"), CASES)
def test_calls_are_read_whole_and_cut_anywhere(name, text, content, made):
    assert fed(calls(name), text) == ("", content, made)
    assert fed(calls(name), *text) == ("", content, made)
    for cut in range(len(text)):
        assert fed(calls(name), text[:cut], text[cut:]) == ("", content, made)


@pytest.mark.parametrize(("name", "text"), ALL_BROKEN, ids=lambda value: value[:40])
def test_what_is_no_call_is_content(name, text):
    assert fed(calls(name), text) == ("", text, [])
    assert fed(calls(name), *[text[i : i + 7] for i in range(0, len(text), 7)]) == ("", text, [])


@pytest.mark.parametrize("name", FORMS)
def test_only_the_first_of_calls_that_may_not_be_parallel(name):
    for text, content, made in FORMS[name]:
        assert fed(calls(name, parallel=False), *text) == ("", content, made[:1])


PIECES = st.lists(st.integers(1, 9), max_size=40)


def cut(text, sizes):
    """The text in pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@st.composite
def damaged(draw):
    """A parser and a text of its form of which parts were taken out, doubled or changed."""
    name = draw(st.sampled_from(sorted(FORMS)))
    text = "".join(
        draw(st.lists(st.sampled_from([form[0] for form in FORMS[name]] + [" and\n", "{", "]"]), max_size=3))
    )
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 30)))
        text = (
            text[:begin]
            + draw(st.sampled_from(["", text[begin:end] * 2, '"', "}", "\\", "<", "é\n", "\udc00"]))
            + text[end:]
        )
    return name, text


@given(damaged(), PIECES)
@settings(max_examples=400, deadline=None)
@example(("hermes", "<tool_call><tool_call>"), [11])
def test_any_cut_of_any_text_gives_the_same(case, sizes):
    name, text = case
    whole = fed(calls(name), text)
    assert fed(calls(name), *cut(text, sizes)) == whole
    assert all(tool in TOOLS and isinstance(arguments, dict) for tool, arguments in whole[2])


FORCED = [  # text of the grammar, or the beginning of one; content; calls
    (r'[{"name":"weather","parameters":{"city":"}\\\"{["}},{"name":"ti\"me","parameters":{}}]', "",
     [("weather", r'{"city":"}\\\"{["}'), ('ti"me', "{}")]),
    ('[{"name":"time","parameters":{"a":[{}]}}', "", [("time", '{"a":[{}]}')]),
    ('[{"name":"time","parameters":{"a":"b\\', "", [("time", '{"a":"b\\')]),
    ('[{"name":"ti', '[{"name":"ti', []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "content", "made"), FORCED)
def test_forced_calls_are_given_out_as_they_come(text, content, made):
    for cut in range(len(text)):
        for pieces in ((text[:cut], text[cut:]), text):
            parser = Forced()
            events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
            assert summary(events, plain=True) == ("", content, made)


THOUGHTS = [  # parser, end of the prompt, text, (reasoning, content)
    ("qwen3", "", "<think>\nWell, <b>.\n</think>\n\nYes. ", ("Well, <b>.", "Yes. ")),
    ("qwen3", "assistant\n<think>\n", "Well.\n</think>\n\nYes.", ("Well.", "Yes.")),
    ("qwen3", "<think>\n\n</think>\n\n", "\nYes </think>", ("", "\nYes </think>")),
    ("qwen3", "", " Yes, <think> is a tag", ("", " Yes, <think> is a tag")),
    ("qwen3", "", "<think>\n\n</think>\n\nYes", ("", "Yes")),
    ("qwen3", "", "<think>\nnever ends </thin", ("never ends </thin", "")),
    ("qwen3", "", "<thi", ("", "<thi")),
    ("deepseek_r1", "<think>\n", " Well.\n</think>Yes", ("Well.", "Yes")),
    ("mistral", "", "[THINK]Well.[/THINK]Yes", ("Well.", "Yes")),
    ("granite", "", "Here is my thought process:\n\nWell. Here\n\nHere is my response:\nYes", ("Well. Here", "Yes")),
    ("granite", "", "Here's my thought process: Well. Here's my response: Yes", ("Well.", "Yes")),
    ("granite", "", "Here is my answer", ("", "Here is my answer")),
]


def thinking(name, prompt):
    thought = registry.thought(name)
    return thought.parser(thought.state(prompt))


@pytest.mark.parametrize(("name", "prompt", "text", "made"), THOUGHTS)
def test_reasoning_is_read_whole_and_cut_anywhere(name, prompt, text, made):
    assert fed(thinking(name, prompt), text)[:2] == made
    assert fed(thinking(name, prompt), *text)[:2] == made
    for place in range(len(text)):
        assert fed(thinking(name, prompt), text[:place], text[place:])[:2] == made


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "th", " ", "\n", "a", "é"]), max_size=12), PIECES)
@settings(max_examples=300, deadline=None)
def test_any_cut_of_any_thought_gives_the_same(parts, sizes):
    text = "".join(parts)
    for prompt in ("", "<think>", "</think>"):
        assert fed(thinking("qwen3", prompt), *cut(text, sizes)) == fed(thinking("qwen3", prompt), text)


def test_reasoning_comes_before_calls():
    call = f"<tool_call>{line('time')}</tool_call>"
    text = f"<think>I would {call}.</think>\n\n{call}"
    for pieces in ([text], [*text]):
        read = fed(Chain(thinking("qwen3", ""), calls("hermes")), *pieces)
        assert read == (f"I would {call}.", "", [("time", {})])


def test_without_parsers_everything_is_content():
    assert fed(Plain(), "<think>", "", "</think>") == ("", "<think></think>", [])


TEMPLATES = {  # what stands in a template, and what it chooses
    "{{ '<tool_call>' }} </think>": ("hermes", "qwen3"),
    "[THINK]": (None, "mistral"),
    "plain": (None, None),
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_chooses(template):
    chosen = [registry.chosen(rows, "auto", template) for rows in (registry.TOOLS, registry.REASONING)]
    assert tuple(chosen) == TEMPLATES[template]
    assert registry.chosen(registry.TOOLS, "none", template) is None
    assert registry.chosen(registry.TOOLS, "hermes", None) == "hermes"
    assert registry.chosen(registry.TOOLS, "auto", None) is None
