"""Calls and reasoning read out of text: each documented form, cut anywhere, whole or damaged."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from octavo.text.parsers import registry
from octavo.text.parsers.calls import MAX_HEAD, Calls
from octavo.text.parsers.events import Arguments, CallBegun, Chain, Content, Plain, Reasoning
from octavo.text.parsers.forced import Forced
from octavo.text.parsers.scan import Scan

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


def fed(parser, *pieces, plain=False):
    """What a parser makes of a text in these pieces."""
    return summary([event for piece in pieces for event in parser.push(piece)] + parser.finish(), plain=plain)


def line(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


OSLO_CODE = {"city": 'Oslo </parameter> "é" }]', "days": 2, "exact": True}
GPT = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
V3 = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
V3_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31_CALL = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
ARGUMENTS = json.dumps(OSLO, ensure_ascii=False)
XML = """<tool_call>
<function=weather>
<parameter=city>
Oslo </parameter> "é" }]
</parameter>
<parameter=days>
2
</parameter>
<parameter=exact>True</parameter>
</function>
</tool_call>"""


def listing(*calls):
    """A JSON list of calls."""
    return "[" + ", ".join(calls) + "]"


FORMS = {  # family: (text, content, calls)
    "hermes": [
        (f"<tool_call>\n{line('weather', **OSLO)}\n</tool_call>", "", [("weather", OSLO)]),
        (f"I look.\n<tool_call>{line('weather', days=1)}</tool_call>\n<tool_call>{line('time')}</tool_call>\n",
         "I look.", [("weather", {"days": 1}), ("time", {})]),
        ('<tool_call>\n{"name": "time"}', "", [("time", {})]),
        ('<tool_call>{"name": "time", "arguments": "{}"}</tool_call>', "", [("time", {})]),
    ],
    "llama3_json": [
        (line("weather", **OSLO).replace("arguments", "parameters"), "", [("weather", OSLO)]),
        (f"{line('time')}; {line('weather', days=1)}", "", [("time", {}), ("weather", {"days": 1})]),
        (f"<|python_tag|>{line('time')}", "", [("time", {})]),
        (f"Here: {line('time')} is it.", "Here: is it.", [("time", {})]),
        ('{"type": "function", "name": "time", "parameters": {}}', "", [("time", {})]),
    ],
    "pythonic": [
        ("""[weather(city='Oslo </tool_call> "é" }]', days=2), time()]""", "", [("weather", OSLO), ("time", {})]),
        ("<|python_start|>[time()]<|python_end|>", "", [("time", {})]),
        ("Well. <|tool_call_start|>[time(a={'b': [None, true, -1.5, (1, 2)]})]<|tool_call_end|> So.", "Well. So.",
         [("time", {"a": {"b": [None, True, -1.5, [1, 2]]}})]),
        (r"[weather(city='\d\'s\\')]", "", [("weather", {"city": "\\d's\\"})]),
    ],
    "mistral": [
        (f"[TOOL_CALLS] {listing(line('weather', **OSLO), line('time'))}", "", [("weather", OSLO), ("time", {})]),
        (f"Hm.[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]time{{}}", "Hm.", [("weather", OSLO), ("time", {})]),
        ("[TOOL_CALLS]time[CALL_ID]abcdefghi[ARGS]{}", "", [("time", {})]),
    ],
    "qwen3_coder": [
        (XML, "", [("weather", OSLO_CODE)]),
        ("I look.\n<function=time>\n</function>\n</tool_call>", "I look.", [("time", {})]),
        ("<tool_call><function=time><parameter=a>1</parameter></function></tool_call>\n\n" + XML, "",
         [("time", {"a": "1"}), ("weather", OSLO_CODE)]),
        ("<tool_call><function=weather><parameter=days>null</parameter><parameter=city>null</parameter>", "",
         [("weather", {"days": None, "city": "null"})]),
    ],
    "deepseek_v3": [
        ("Hm.\n" + V3.format(V3_CALL.format("weather", ARGUMENTS) + "\n" + V3_CALL.format("time", "{}")), "Hm.",
         [("weather", OSLO), ("time", {})]),
        (V3.format(V31_CALL.format("weather", ARGUMENTS) + V31_CALL.format("time", "{}")), "",
         [("weather", OSLO), ("time", {})]),
    ],
    "granite": [
        (f"<|tool_call|>{listing(line('weather', **OSLO), line('time'))}", "", [("weather", OSLO), ("time", {})]),
        (f"<tool_call> {listing(line('time'))}", "", [("time", {})]),
        (f"<function_call> {line('time')}<function_call> {line('weather', days=3)}", "",
         [("time", {}), ("weather", {"days": 3})]),
        (listing(line("time")), "", [("time", {})]),
    ],
    "phi4_mini_json": [
        (f"functools{listing(line('weather', **OSLO), line('time'))}", "", [("weather", OSLO), ("time", {})]),
    ],
    "gemma4": [
        ('Hm. <|tool_call>call:weather{city:<|"|>Oslo </tool_call> "é" }]<|"|>,days:2}<tool_call|>', "Hm.",
         [("weather", OSLO)]),
        ("<start_function_call>call:weather{city:<escape>a,<end_function_call>}<escape>}<end_function_call>"
         "<start_function_call>call:time{a:[true,{b:null,<escape>c d<escape>:1.5}],e:[]}<end_function_call>", "",
         [("weather", {"city": "a,<end_function_call>}"}), ("time", {"a": [True, {"b": None, "c d": 1.5}], "e": []})]),
        ("<|tool_call>call:time{}<tool_call|><|tool_call>call:time{a:b c}", "", [("time", {}), ("time", {"a": "b c"})]),
    ],
    "openai": [
        (f"{GPT}{ARGUMENTS}<|call|>", "", [("weather", OSLO)]),
        ("<|channel|>commentary to=functions.time<|message|>{}", "", [("time", {})]),
    ],
}  # fmt: skip
BAD_CALLS = [line("nobody"), '{"name": "time", "arguments": [1]}', '{"name": "time", "arguments": NaN}', "[" * 100_000,
             '{"arguments": {"a": 1e999}, "name": "time"}', '{"name": "time", "arguments": "{"}',
             '{"name": "time", "arguments": ', '{"name": "ti', '{"name": 5}', "{}", "5", "",
             '{"name": "time", "args": {"a": 1}}']  # fmt: skip
BROKEN = {  # family: texts without any call in them, all of which are content
    "hermes": ["<tool_call", "Text with < and <tool and {braces}. ",
               *(f"<tool_call>{bad}</tool_call>" for bad in BAD_CALLS)],
    "llama3_json": ['{"a": 1}', "{ and [", '{"name": "time"}', "<|python_tag|>time.call()", *BAD_CALLS[:5]],
    "pythonic": ["[1] and [2]", "[time(1)]", "[time(**{})]", "[nobody()]", "[time(a=b'c')]", "[time(a=1e999)]",
                 "[time(a=f())]", "[time(a=", "[]", "[[1, 2], 'x']", "<|python_start|>time(<|python_end|>",
                 "[time(a={1: 2})]", "[time(" + "[" * 100_000],
    "mistral": ["[TOOL_CALLS", "[TOOL_CALLS] not JSON", "[TOOL_CALLS]time[ARGS]", "[TOOL_CALLS]nobody[ARGS]{} so",
                "[TOOL_CALLS]time[ARGS][1]",
                *(f"[TOOL_CALLS][{bad}]" for bad in BAD_CALLS)],
    "qwen3_coder": ["<function", "<tool_call>a</tool_call>", XML.replace("weather", "nobody"),
                    "<tool_call><function=time> text </function></tool_call>",
                    "<tool_call><function=time>\n<paramete"],
    "deepseek_v3": ["<｜tool▁calls▁begin", V3.format(""), V3.format("time"), V3.format(V31_CALL.format("nobody", "{}")),
                    V3.format(V3_CALL.format("time", "[]")), V3.format("and" + V31_CALL.format("time", "{}"))],
    "granite": ["<|tool_call|>", "[1]", *(f"<|tool_call|>[{bad}" for bad in BAD_CALLS)],
    "phi4_mini_json": ["functools are", "functools[1]", *(f"functools[{bad}]" for bad in BAD_CALLS)],
    "gemma4": ["<|tool_call>call:time{a:}<tool_call|>", "<|tool_call>time{}<tool_call|>",
               "<|tool_call>call:nobody{}<tool_call|>", '<|tool_call>call:time{a:<|"|>b', "<|tool_call>call:time{a b}",
               "<|tool_call>call:time{a:1 b:2}<tool_call|>", "<|tool_call>call:time{}x<tool_call|>",
               "<|tool_call>call:time{a:<b>}<tool_call|>", "<|tool_call>call:time{a:" + "[" * 10_000 + "<tool_call|>"],
    "openai": ["<|channel|>comm", f"{GPT}<|call|", f"{GPT}[1]<|call|>", GPT.replace("weather", "nobody") + "{}",
               "<|channel|>commentary to=browser.search<|message|>{}<|call|>"],
}  # fmt: skip
NAN = '{"name": "time", "arguments": {"a": NaN}}'
OPEN = '{"name": "time", "arguments": {"a": "b\\'
BEGUN = {  # family: texts whose first call begins, and then ends or breaks: content, calls with arguments as written
    "hermes": [
        (f"<tool_call>{OPEN}", "", [("time", '{"a": "b\\')]),
        ('Hm. <tool_call>{"name": "time", "arguments": {', "Hm.", [("time", "{")]),
        (f"<tool_call>{NAN}</tool_call> so", "NaN}}</tool_call> so", [("time", '{"a": ')]),
        ('<tool_call>{"name": "time", "arguments": {"a": 1e999}}\n</tool_c', "", [("time", '{"a": 1e999}')]),
        (f"<tool_call>{line('time')[:-1]} so. ", "so. ", [("time", "{}")]),
        (f'<tool_call>{line("time")[:-1]}, "id": 1}}</tool_call>', "", [("time", "{}")]),
        ('<tool_call>{"name": "time", "arguments": {"a": [1}}</tool_call>', "", [("time", '{"a": [1')]),
    ],
    "llama3_json": [(OPEN, "", [("time", '{"a": "b\\')]), (NAN + " so", "NaN}} so", [("time", '{"a": ')])],
    "pythonic": [],
    "mistral": [
        ("[TOOL_CALLS]time[ARGS]{", "", [("time", "{")]),
        ("[TOOL_CALLS]time[ARGS]{a} so", "a} so", [("time", "{")]),
        (f"[TOOL_CALLS][{line('time')}, {line('nobody')}]", f"}}, {line('nobody')}]", [("time", "{}")]),
        (f"[TOOL_CALLS][{line('time')}, {OPEN}", "", [("time", "{}"), ("time", '{"a": "b\\')]),
        (f"[TOOL_CALLS][{line('time')}, {{\"na", '}, {"na', [("time", "{}")]),
    ],
    "qwen3_coder": [
        ("<tool_call><function=time><parameter=a>1", "<parameter=a>1", [("time", "{")]),
        ("<tool_call><function=time><parameter=a>1</parameter>\n<parameter=b>2 ", "<parameter=b>2 ",
         [("time", '{"a": "1"')]),
        ("<tool_call><function=time><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>",
         "<parameter=a>2</parameter></function></tool_call>", [("time", '{"a": "1"')]),
        ("<tool_call><function=time><parameter=a>1</parameter></function></tool", "", [("time", '{"a": "1"}')]),
    ],
    "deepseek_v3": [
        (V3.format(V3_CALL.format("time", "{")), "", [("time", "{\n")]),
        (V3.format(V31_CALL.format("time", "{}") + "and"), "<｜tool▁call▁end｜>and<｜tool▁calls▁end｜>",
         [("time", "{}")]),
        (V3.format(V3_CALL.format("time", "{}"))[:-20], "", [("time", "{}")]),
    ],
    "granite": [(f"<|tool_call|>[{OPEN}", "", [("time", '{"a": "b\\')])],
    "phi4_mini_json": [(f"functools[{NAN}] so", "NaN}}] so", [("time", '{"a": ')])],
    "gemma4": [],
    "openai": [(f"{GPT}{{<|call|>", "", [("weather", "{")]), (f'{GPT}{{"a": "<|call|>', "", [("weather", '{"a": "')])],
}  # fmt: skip
SAME = {"deepseek_v31": "deepseek_v3", "functiongemma": "gemma4", "granite-20b-fc": "granite",
        "llama4_pythonic": "pythonic", "lfm2": "pythonic"}  # fmt: skip
CASES = [(name, *form) for name, forms in FORMS.items() for form in forms]
ALL_BEGUN = [(name, *form) for name, forms in BEGUN.items() for form in forms]
ALL_BROKEN = [(name, text) for name, texts in BROKEN.items() for text in texts]


def test_every_parser_is_tested():
    assert FORMS.keys() == BROKEN.keys() == BEGUN.keys() == {row.name for row in registry.TOOLS} - SAME.keys()
    assert all(registry.family(name) is registry.family(other) for name, other in SAME.items())


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


@pytest.mark.parametrize(("name", "text", "content", "made"), ALL_BEGUN)
def test_a_call_that_began_stays_as_far_as_it_got(name, text, content, made):
    for pieces in ([text], [*text], *([text[:cut], text[cut:]] for cut in range(len(text)))):
        assert fed(calls(name), *pieces, plain=True) == ("", content, made)


@pytest.mark.parametrize("name", [name for name, forms in BEGUN.items() if forms])
def test_arguments_are_given_out_as_they_come(name):
    [text] = [text for text, _, made in FORMS[name][:3] if made[0] in (("weather", OSLO), ("weather", OSLO_CODE))][:1]
    parser, parts = calls(name), []
    for letter in text:
        parts += [event.text for event in parser.push(letter) if isinstance(event, Arguments) and not event.index]
    assert len(parts) > (3 if name == "qwen3_coder" else 30)
    assert json.loads("".join(parts)) == (OSLO_CODE if name == "qwen3_coder" else OSLO)


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers()
                    | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each), max_leaves=8),
       st.data())  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_a_scan_takes_what_json_takes(value, data):
    text = json.dumps({"a": value}, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.none() | st.just(1)))
    whole = Scan()
    assert [whole.push(letter + "}", 0, 1) for letter in text] == [(1, letter) for letter in text] and whole.done
    begin = data.draw(st.integers(1, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 3)))
    text = text[:begin] + data.draw(st.sampled_from([*',:{}[]"\\ \n-+.0e1tu', "nul", ""])) + text[end:]
    scan = Scan()
    assert scan.push(text, 0, len(text))[0] == len(text) or scan.done or scan.broken
    try:
        json.JSONDecoder(parse_constant=lambda name: json.loads(name[:0])).raw_decode(text)
    except json.JSONDecodeError:
        assert not scan.done
    else:
        assert scan.done


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
    whole = fed(calls(name), text, plain=True)
    assert fed(calls(name), *cut(text, sizes), plain=True) == whole
    for tool, arguments in whole[2]:
        scan = Scan()
        assert tool in TOOLS and scan.push(arguments, 0, len(arguments))[0] == len(arguments) and not scan.broken


FORCED = [  # text of the grammar, or the beginning of one; content; calls
    (r'[{"name":"weather","parameters":{"city":"}\\\"{["}},{"name":"ti\"me","parameters":{}}]', "",
     [("weather", r'{"city":"}\\\"{["}'), ('ti"me', "{}")]),
    ('[{"name":"time","parameters":{"a":[{}]}}', "", [("time", '{"a":[{}]}')]),
    ('[{"name":"time","parameters":{"a":"b\\', "", [("time", '{"a":"b\\')]),
    ('[{"name":"ti', '[{"name":"ti', []),
    ('[{"name":"time","parameters":{}},{"name":"', "", [("time", "{}")]),
    ('[{"name":"time","parameters":{}}]', "", [("time", "{}")]),
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
    ("gemma4", "", "<|channel>thought\nWell.<channel|>Yes", ("Well.", "Yes")),
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


GPT_ANSWERS = [  # end of the prompt, text, (reasoning, content, calls)
    ("", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
     ("Hm.", "Yes.", [])),
    ("", f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
     f"<|start|>assistant{GPT}{ARGUMENTS}", ("Hm.", "I look.", [("weather", OSLO)])),
    ("", " to=functions.time<|channel|>commentary json<|message|>{}<|call|><|start|>assistant to=functions.time"
     "<|channel|>commentary<|message|>{}<|call|>", ("", "", [("time", {}), ("time", {})])),
    ("<|channel|>analysis<|message|>", "Hm.", ("Hm.", "", [])),
    ("<|channel|>final<|message|>", "Yes <|th", ("", "Yes <|th", [])),
    ("", "Plain <text>.", ("", "Plain <text>.", [])),
    ("", "<|channel|>anal", ("", "<|channel|>anal", [])),
    ("", GPT + '[1', ("", GPT.replace(" <|constrain|>json", "") + "[1", [])),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "text", "made"), GPT_ANSWERS)
def test_channels_are_read_whole_and_cut_anywhere(prompt, text, made):
    for pieces in ([text], [*text], *([text[:cut], text[cut:]] for cut in range(len(text)))):
        assert fed(Chain(thinking("openai_gptoss", prompt), calls("openai")), *pieces) == made


def test_a_call_in_a_channel_comes_as_it_is_written():
    parser, parts = Chain(thinking("openai_gptoss", ""), calls("openai")), []
    for letter in GPT + ARGUMENTS:
        parts += [event.text for event in parser.push(letter) if isinstance(event, Arguments)]
    assert "".join(parts) == ARGUMENTS and len(parts) > 30


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
    "<tool_call> <function=example> </think>": ("qwen3_coder", "qwen3"),
    "[TOOL_CALLS] [ARGS] [THINK]": ("mistral", "mistral"),
    "<|channel|>analysis<|message|>": ("openai", "openai_gptoss"),
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜> </think>": ("deepseek_v3", "qwen3"),
    "<|tool_call|> Here is my thought process: ": ("granite", "granite"),
    '{"name": function name, "parameters": dictionary of argument name and its value} <|python_tag|>':
        ("llama3_json", None),
    "<|python_start|>": ("llama4_pythonic", None),
    "List of tools: <|tool_list_start|> <|tool_call_start|>": ("lfm2", None),
    "<|tool|> <|/tool|>": ("phi4_mini_json", None),
    "<start_function_call>": ("functiongemma", None),
    "<|tool_call> <|channel>": ("gemma4", "gemma4"),
    "plain": (None, None),
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_chooses(template):
    chosen = [registry.chosen(rows, "auto", template) for rows in (registry.TOOLS, registry.REASONING)]
    assert tuple(chosen) == TEMPLATES[template]
    assert registry.chosen(registry.TOOLS, "none", template) is None
    assert registry.chosen(registry.TOOLS, "hermes", None) == "hermes"
    assert registry.chosen(registry.TOOLS, "auto", None) is None


class Counting:
    """A pattern of heads that counts the characters it is shown."""

    def __init__(self, pattern):
        self._pattern = pattern
        self.shown = 0

    def match(self, text, start, end):
        self.shown += end - start
        return self._pattern.match(text, start, end)


LONG = 1 << 15


@pytest.mark.parametrize("name", sorted(FORMS))
def test_an_answer_without_end_is_read_in_time_that_grows_with_its_length(name):
    """Whole, no pattern goes back and forth; streamed, a call that does not begin is looked at only so far."""
    family = registry.family(name)
    starts = {text[:size] for text, *_ in FORMS[name][:5] for size in range(0, min(len(text), 80), 6)}
    for start in starts | set(family.opening):
        for filler in (" ", "a", "{", '"', "\\", "<"):
            began = time.process_time()
            fed(calls(name), start + filler * LONG, plain=True)
            assert time.process_time() - began < 5, (start, filler)  # milliseconds, or minutes
    if family.head is not None:
        head = Counting(family.head)
        pieces = cut(family.opening[0] + "a" * LONG if family.opening else "{" * LONG, [16] * (LONG // 16))
        fed(Calls(dataclasses.replace(family, head=head), TOOLS), *pieces, plain=True)
        assert head.shown <= MAX_HEAD * (len(pieces) + 1)
