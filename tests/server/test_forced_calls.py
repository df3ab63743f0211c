"""Calls that must be made, and answers of a form beside tools and reasoning: a real model, which says what it must."""

from __future__ import annotations

import json

import jsonschema
import openai
import pytest
import tiny_llama
from served_folder import served_folder
from tool_chat import CHAT, MESSAGES, TEMPLATE, TOOLS, both

from octavo.checkpoint.source import open_source
from octavo.text.tokenizer import load_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "maxLength": 3}},
}
NAMED = {"type": "function", "function": {"name": "sun"}}
FUNCTIONS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "sun"}},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)

    def load():
        with open_source(folder) as source:
            made = load_tokenizer(source)
        made.chat_template = TEMPLATE
        return made

    with served_folder(folder, load, reasoning_parser="none") as made:
        yield made


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def called(client, seeds=range(4), **asked):
    """Names of the calls of some answers, whose arguments are valid."""
    names = []
    for seed in seeds:
        _, said, made, finish = both(client, tools=FUNCTIONS, max_tokens=150, seed=seed, **asked)
        assert (said, finish) == ("", "tool_calls")
        for name, arguments in made:
            jsonschema.validate(json.loads(arguments), SCHEMA if name == "weather" else {"maxProperties": 0})
        names.append([name for name, _ in made])
    return names


def test_required_calls_follow_their_schemas(server, client):
    names = called(client, seeds=range(8), tool_choice="required")
    assert {name for some in names for name in some} == {"weather", "sun"}
    [bracket] = server.front.language.tokenizer.encode("]")
    asked = {"tools": FUNCTIONS, "tool_choice": "required", "max_tokens": 150, "seed": 1}
    *_, made, finish = both(client, logit_bias={str(bracket): -100}, **asked)  # it cannot end
    assert len(made) > 2 and finish == "length"


def test_one_call_where_they_may_not_be_parallel_or_one_is_named(client):
    assert {len(some) for some in called(client, tool_choice="required", parallel_tool_calls=False)} == {1}
    assert called(client, tool_choice=NAMED) == [["sun"]] * 4


def test_a_call_that_is_cut_keeps_what_came(client):
    name = {"type": "function", "function": {"name": "weather"}}
    thought, said, made, finish = both(client, tools=FUNCTIONS, tool_choice=name, max_tokens=40, seed=1)
    assert (thought, said, finish) == ("", "", "length")
    assert made[0][0] == "weather" and made[0][1].startswith('{"city":"')


def form(schema):
    """A response format."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_an_answer_of_a_form_or_a_call(server, client):
    asked = {"tools": TOOLS, "response_format": form({"enum": ["up"]}), "max_tokens": 30, "seed": 1}
    assert both(client, **asked) == ("", '"up"', [], "stop")
    [quote] = server.front.language.tokenizer.encode('"')
    _, said, _, finish = both(client, logit_bias={str(quote): -100}, **asked)
    assert said.startswith("<tool_call>") and finish == "length"


def test_what_is_refused(server):
    required = {"tools": FUNCTIONS, "tool_choice": "required"}
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]
    odd = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "no"}}}}}]
    for fields, param in (
        (required | {"response_format": {"type": "json_object"}}, "response_format"),
        (required | {"grammar": 'root ::= "a"'}, "grammar"),
        ({"tools": bad, "tool_choice": "required"}, "tools[0].function.parameters.type"),
        ({"tools": odd, "tool_choice": "required"}, "tools"),
    ):
        answer = server.post(CHAT, messages=MESSAGES, **fields)
        assert (answer.status, answer.error["param"]) == (400, param)
