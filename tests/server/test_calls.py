"""Tools and reasoning over HTTP: what a model writes as OpenAI's client reads it, whole and streamed."""

from __future__ import annotations

import copy
import json

import openai
import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until
from tool_chat import CALL, CHAT, MESSAGES, TEMPLATE, TOOLS, both

from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue
from octavo.server.config import ServerConfig
from octavo.text.tokenizer import load_tokenizer


class Script:
    """What the engine says next."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.text = ""

    def __call__(self, request):
        return [*self._tokenizer.encode(self.text, special=False), 2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    with open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)) as source:
        made = load_tokenizer(source)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def script(tokenizer):
    return Script(tokenizer)


@pytest.fixture(scope="module")
def engine(script):
    return ScriptedEngine(script)


@pytest.fixture(scope="module")
def server(engine, tokenizer):
    with served(engine, lambda: tokenizer) as made:
        until(made.front.ready)
        yield made


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_call(client, script):
    script.text = "<think>Hm.</think>\n\nI look.\n" + CALL
    wanted = ("Hm.", "I look.", [("weather", '{"city": "Osloé"}')], "tool_calls")
    assert both(client, tools=TOOLS) == wanted
    assert both(client, tools=TOOLS, tool_choice="auto", logprobs=True) == wanted


def test_content_is_null_beside_a_call_alone(client, script):
    script.text = CALL
    [choice] = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS).choices
    assert choice.message.content is None
    assert choice.message.tool_calls[0].type == "function"


def test_without_tools_or_with_none_to_choose_calls_are_text(client, script):
    script.text = CALL
    assert both(client) == ("", CALL, [], "stop")
    assert both(client, tools=TOOLS, tool_choice="none") == ("", CALL, [], "stop")


def test_what_is_no_call_is_content(client, script):
    script.text = CALL.replace("weather", "sports")
    assert both(client, tools=TOOLS) == ("", script.text, [], "stop")


def test_calls_in_parallel_unless_they_may_not_be(client, script):
    script.text = CALL + CALL.replace("weather", "time")
    assert [name for name, _ in both(client, tools=TOOLS)[2]] == ["weather", "time"]
    assert [name for name, _ in both(client, tools=TOOLS, parallel_tool_calls=False)[2]] == ["weather"]


def test_a_call_that_is_cut_is_content_until_its_arguments_begin(client, script):
    script.text = CALL
    cut = both(client, tools=TOOLS, max_tokens=10)
    assert cut[2:] == ([], "length")
    assert CALL.startswith(cut[1]) and cut[1]
    cut = both(client, tools=TOOLS, max_tokens=len(script([])) - 12)
    [(name, arguments)] = cut[2]
    assert (cut[1], name, cut[3]) == ("", "weather", "length")
    assert '{"city": "Osloé"}'.startswith(arguments) and arguments


def test_arguments_are_streamed(client, script):
    script.text = CALL
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [call.function.name for call in calls] == ["weather", *[None] * (len(calls) - 1)]
    parts = [call.function.arguments for call in calls if call.function.arguments]
    assert len(parts) > 5 and json.loads("".join(parts)) == {"city": "Osloé"}


def test_reasoning_may_be_left_out(client, script):
    script.text = "<think>Hm.</think>Yes."
    assert both(client) == ("Hm.", "Yes.", [], "stop")
    assert both(client, extra_body={"include_reasoning": False}) == ("", "Yes.", [], "stop")


def test_tokens_of_reasoning_are_counted(server, script, tokenizer):
    thought = tokenizer.encode("<think>Hm, é.</think>", special=False)
    for text, count in (
        ("<think>Hm, é.</think>\n\nYes. " + CALL, len(thought)),
        ("<think>Hm, é.", len(thought) - len(tokenizer.encode("</think>", special=False)) + 1),  # and the text's end
        ("Yes <think>", 0),
        (" \n<think>Hm, é.</think>", len(tokenizer.encode(" \n<think>Hm, é.</think>", special=False))),
    ):
        script.text = text
        asked = {"messages": MESSAGES, "n": 2, "include_reasoning": False}
        usage = server.post(CHAT, **asked).json["usage"]
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 2 * count}
        for each in (False, True):
            options = {"include_usage": True, "continuous_usage_stats": each}
            chunks = server.post(CHAT, **asked, stream=True, stream_options=options).events[:-1]
            assert chunks[-1]["usage"] == usage
            counts = [chunk["usage"]["completion_tokens_details"]["reasoning_tokens"] for chunk in chunks if each]
            assert counts == sorted(counts)


def test_streamed_tokens_are_all_there(server, script, tokenizer):
    script.text = "<think>Hm.</think>Yes. " + CALL
    events = server.post(CHAT, messages=MESSAGES, tools=TOOLS, stream=True, return_token_ids=True).events
    choices = [
        json.loads(event)["choices"][0] if isinstance(event, str) else event["choices"][0] for event in events[:-1]
    ]
    tokens = [token for choice in choices for token in choice.get("token_ids") or []]
    assert tokens == [*tokenizer.encode(script.text, special=False), 2]


def test_a_conversation_with_calls_is_rendered(client, script, engine, tokenizer):
    script.text = "Rain."
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "rain"},
    ]
    client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, reasoning_effort="low")
    prompt = tokenizer.decode(engine.requests[-1].prompt, skip_special=False)
    assert prompt.startswith("[weather][time]<|im_start|>userOslo?")
    assert '<think>Hm.</think><tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in prompt
    assert "<|im_start|>toolrain" in prompt
    assert prompt.endswith("low<|im_start|>assistant\n")


def test_a_schema_of_no_or_many_levels(server):
    for parameters in (None, nested(100)):
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        assert server.post("/tokenize", messages=MESSAGES, tools=tools).status == 200


def test_tokenize_counts_tools(server, engine, script):
    script.text = "a"
    asked = {"messages": MESSAGES, "tools": TOOLS}
    counted = server.post("/tokenize", **asked).json["tokens"]
    assert server.post(CHAT, **asked).status == 200
    assert counted == engine.requests[-1].prompt


def nested(levels):
    """A schema of so many levels."""
    return {"a": nested(levels - 1)} if levels > 1 else {}


BAD = [
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": TOOLS + TOOLS[:1]}, "tools[2].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(101)}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sports"}}}, "tool_choice"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "", "reasoning_content": "a"}]}, "messages[0].reasoning_content"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [
        {"id": "a", "function": {"name": "weather", "arguments": "{"}}]}]},
     "messages[0].tool_calls[0].function.arguments"),
    ({"reasoning_effort": "some"}, "reasoning_effort"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_what_is_refused(server, fields, param):
    answer = server.post(CHAT, **{"messages": MESSAGES, **fields})
    assert answer.status == 400
    assert answer.error["param"] == param


def test_a_template_that_shows_no_tools_is_told_of_them(tmp_path):
    with open_source(tiny_llama.write_folder(tmp_path, tokenizer=True)) as source:
        tokenizer = load_tokenizer(source)
    engine = ScriptedEngine(Script(tokenizer))
    engine.answer.text = CALL
    tool = {"type": "function", "function": {"name": "weather"}}
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        [choice] = server.post(CHAT, messages=MESSAGES, tools=[tool]).json["choices"]
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
        prompt = tokenizer.decode(engine.requests[-1].prompt, skip_special=False)
        assert prompt.startswith("<|im_start|>system\n# Tools") and json.dumps(tool) in prompt
        answer = server.post(CHAT, messages=MESSAGES, max_tokens=3, reasoning_effort="low")
        assert (answer.status, answer.error["param"]) == (400, "reasoning_effort")


def test_a_template_with_tools_of_a_form_nobody_knows_takes_no_choice_of_the_model(tokenizer):
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = "{{ tools }}{{ messages[0].content }}"
    with served(ScriptedEngine(), lambda: tokenizer) as server:
        until(server.front.ready)
        for choice, status in (("auto", 400), ("none", 200), ("required", 200)):
            answer = server.post(CHAT, messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=3)
            assert answer.status == status
            assert status == 200 or answer.error["param"] == "tool_choice"


@pytest.mark.parametrize(
    ("flag", "fields", "status"),
    [
        ("none", {}, 400),
        ("none", {"tool_choice": "required"}, 200),
        ("llama3_json", {}, 200),
        ("llama3_json", {"response_format": {"type": "json_object"}}, 400),  # a call is an object too
        ("hermes", {"response_format": {"type": "json_object"}}, 200),
    ],
)
def test_the_flag_goes_before_the_template(tokenizer, flag, fields, status):
    with served(ScriptedEngine(), lambda: tokenizer, tool_call_parser=flag) as server:
        until(server.front.ready)
        answer = server.post(CHAT, messages=MESSAGES, tools=TOOLS, max_tokens=3, **fields)
        assert answer.status == status, answer.body
        assert status == 200 or answer.error["param"] == "tool_choice"


def test_parsers_that_nobody_knows_are_refused_at_the_start():
    for field in ("tool_call_parser", "reasoning_parser"):
        with pytest.raises(InvalidValue) as caught:
            ServerConfig(names=("tiny",), **{field: "best"})
        assert caught.value.field == field
