"""Structured output over HTTP, from every field that asks for it; compiled in the engine's process beside the loop."""

from __future__ import annotations

import json
import re
import threading
import time

import jsonschema
import openai
import pytest
import tiny_llama
from served_folder import served_folder

from octavo.core.errors import UserError
from octavo.core.request import Request, SamplingParams
from octavo.engine.compile import Compiled, Compiler

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
LESS = 3 + ord("<")  # the token of this byte
MESSAGES = [{"role": "user", "content": "Who are you?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)
    with served_folder(folder) as made:
        yield made


def test_a_schema_by_openais_client_whole_and_streamed(server):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": {"enum": ["a", 1]}}}
    asked = {"model": "tiny", "messages": MESSAGES, "response_format": wanted, "max_tokens": 60, "seed": 1}
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**asked)
        parts = list(client.chat.completions.create(**asked, stream=True))
    assert whole.choices[0].finish_reason == "stop"
    assert json.loads(whole.choices[0].message.content) in ("a", 1)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_each_choice_follows_the_schema(server, path):
    prompt = {"messages": MESSAGES} if path == CHAT else {"prompt": "Who"}
    wanted = {"json": SCHEMA, "disable_any_whitespace": True, "disable_additional_properties": True}
    answer = server.post(path, **prompt, structured_outputs=wanted, n=3, max_tokens=100, seed=2).json
    assert len(answer["choices"]) == 3
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"] if path == CHAT else choice["text"]), SCHEMA)


TAGS = {
    "old": {"structures": [{"begin": "<f>", "schema": {"enum": [1, 22]}, "end": "</f>"}], "triggers": ["<"]},
    "new": {"format": {"type": "tag", "begin": "<f>", "content": {"type": "regex", "pattern": "1|22"}, "end": "</f>"}},
}


@pytest.mark.parametrize("form", TAGS)
@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_structural_tags_from_both_fields(server, path, form):
    tag = {"type": "structural_tag"} | TAGS[form]
    asked = {"prompt": "Who"} if path == COMPLETE else {"messages": MESSAGES}
    asked |= {"max_tokens": 40, "seed": 3, "logit_bias": {str(LESS): 20} if form == "old" else None}
    first = server.post(path, **asked, response_format=tag).json["choices"][0]
    text = first["text"] if path == COMPLETE else first["message"]["content"]
    assert re.match("(<f>(1|22)</f>)+", text)
    assert (first["finish_reason"] == "stop") == (form == "new")
    for written in (tag, json.dumps(tag)):
        again = server.post(path, **asked, structured_outputs={"structural_tag": written}).json["choices"][0]
        assert again == first


@pytest.mark.parametrize("stop", [None, ["e"], ['":', "}"]])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_streams_and_stops_say_what_the_whole_answer_says(server, stop, seed):
    """Each choice, with and without stop strings; a stopped answer is the beginning of the one that is not."""
    asked = {"prompt": "Who", "n": 3, "max_tokens": 60, "seed": seed, "json_schema": SCHEMA}
    free = server.post(COMPLETE, **asked).json["choices"]
    whole = server.post(COMPLETE, **asked, stop=stop).json["choices"]
    streamed = ["", "", ""]
    for event in server.post(COMPLETE, **asked, stop=stop, stream=True).events[:-1]:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["text"]
    for choice, unstopped in zip(whole, free, strict=True):
        assert streamed[choice["index"]] == choice["text"]
        cut = min([len(unstopped["text"]), *(i for mark in stop or () if (i := unstopped["text"].find(mark)) >= 0)])
        assert choice["text"] == unstopped["text"][:cut]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"structured_outputs": {"choice": ["up", "down"]}}, ("up", "down")),
        ({"structured_outputs": {"regex": "(ab|cd)!"}}, ("ab!", "cd!")),
        ({"grammar": 'root ::= "x" | "y"'}, ("x", "y")),
        ({"json_schema": {"enum": ["q"]}}, ('"q"',)),
    ],
)
def test_other_fields(server, fields, texts):
    choice = server.post(COMPLETE, prompt="Go", max_tokens=20, **fields).json["choices"][0]
    assert choice["text"] in texts
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a"}, "use_beam_search": True}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_object"}, "use_beam_search": True}, "response_format"),
        ({"grammar": 'root ::= "a"', "use_beam_search": True}, "grammar"),
        ({"grammar": "start: nowhere"}, "grammar"),
        ({"json_schema": {"type": "nothing"}}, "json_schema"),
        ({"json_schema": "{"}, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/none"}}}},
         "response_format.json_schema.schema"),
        ({"grammar": "start: A", "json_schema": {}}, "json_schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format"),
        ({"response_format": {"type": "structural_tag", "format": {"type": "token"}}}, "response_format.format.type"),
        ({"response_format": {"type": "text", "triggers": ["x"]}}, "response_format.triggers"),
        ({"structured_outputs": {"structural_tag": "{"}}, "structured_outputs.structural_tag"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_followed_is_refused_with_its_reason(server, fields, param, stream):
    stream = stream and "use_beam_search" not in fields
    answer = server.post(COMPLETE, prompt="Go", max_tokens=20, stream=stream, **fields)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["message"].startswith(param)


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"structured_outputs": {"choice": ["<"]}, "bad_words": ["<"]}, "structured_outputs.choice", "bad_words"),
        ({"structured_outputs": {"choice": ["<"]}, "allowed_token_ids": [9]}, "structured_outputs.choice", "allowed"),
        ({"grammar": "start: " + " | ".join(f'"a{n}"' for n in range(2500))}, "grammar", "too complex"),
    ],
)
def test_what_cannot_go_on_is_refused_under_the_field_that_asked_for_it(server, fields, param, reason):
    answer = server.post(COMPLETE, prompt="Go", max_tokens=20, **fields)
    assert (answer.status, answer.error["param"]) == (400, param), answer.body
    assert answer.error["message"].startswith(f"{param}: ")
    assert reason in answer.error["message"]
    assert "<" not in answer.error["message"].replace("'<'", "")


def request_of(name: str) -> Request:
    return Request(id=name, prompt=[1], sampling=SamplingParams(), grammar="x", grammar_field="grammar")


def test_a_request_withdrawn_while_it_compiles_is_told_of_and_belongs_to_nobody():
    begun, go, told = threading.Event(), threading.Event(), []

    def compile(request: Request) -> None:
        begun.set()
        assert go.wait(10)

    compiler = Compiler(compile, told.append)
    compiler.submit(request_of("first"))
    compiler.submit(request_of("second"))
    assert begun.wait(10)
    for name in ("first", "second"):
        assert compiler.withdraw(name).id == name
    go.set()
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [news.id for news in told] == ["first"]  # the second is not even compiled
    assert compiler.withdraw("first") is None


def test_what_breaks_the_compiler_refuses_one_request():
    told = []
    done = threading.Event()

    def compile(request: Request) -> None:
        if request.id == "bad":
            raise BaseException("a panic")

    def tell(news: Compiled) -> None:
        told.append(news)
        if len(told) == 2:
            done.set()

    compiler = Compiler(compile, tell)
    compiler.submit(request_of("bad"))
    compiler.submit(request_of("good"))
    assert done.wait(10)
    assert isinstance(told[0].error, UserError)
    assert told[0].error.field == "grammar"
    assert told[1] == Compiled("good")
