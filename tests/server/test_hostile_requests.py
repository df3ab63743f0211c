"""No request costs another: hostile values in every field, and forms that nobody would write, against a real engine.

docs/security.md says which class of advisory each test is for.
"""

from __future__ import annotations

import json
import re
import threading
import time

import pytest
import tiny_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import until
from served_folder import served_folder

from octavo.core.config import SchedulerConfig
from octavo.protocol.chat import ChatRequest
from octavo.protocol.completions import CompletionRequest
from octavo.protocol.generation import NEUTRAL_GENERATION
from octavo.protocol.structured import StructuredOutputs

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
BASE = {
    COMPLETE: {"prompt": "Who", "max_tokens": 2},
    CHAT: {"messages": [{"role": "user", "content": "Who"}], "max_tokens": 2},
}
# what tells of the server's inside: paths, addresses, frames of a stack
LEAK = re.compile(rb"/(home|root|tmp|usr|opt|var|work)/|0x[0-9a-f]{6,}|Traceback|File \\\"|\.py\b")
GROWTH_BYTES = 200 * 2**20  # of the engine: tokenizer, tables and 64 forms, see `octavo plan`; and as much again


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)
    scheduler = SchedulerConfig(max_seqs=4, max_step_tokens=64, max_queued=600)
    with served_folder(folder, scheduler=scheduler) as made:
        yield made


@pytest.fixture
def alive(server):
    """Before and after, the same answer by the same engine, which has not grown and holds nothing."""

    def answer():
        return server.post(COMPLETE, prompt="the other one", temperature=0, max_tokens=20).json["choices"]

    before, size = answer(), resident(server)
    yield
    until(lambda: server.front.inflight == 0, 60)
    assert answer() == before
    status = server.front.status()
    assert (status.state, status.restarts) == ("ready", 0)
    assert resident(server) < size + GROWTH_BYTES


def resident(server) -> int:
    return server.front.status().stats.resident_bytes


def judged(answer) -> int:
    """The status of an answer: done, or refused in a few words that tell nothing of the inside."""
    assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, answer.body[:500])
    if answer.status != 200:
        assert answer.error["message"]
        assert len(answer.body) < 3000
        assert not LEAK.search(answer.body), answer.body[:500]
    return answer.status


DEEP = "[" * 5000 + "]" * 5000
RAW = [  # as they stand in the body
    "null", "true", "-1", "-0.0", "0", "1", "2147483648", "9223372036854775808", "18446744073709551616", "1" * 5000,
    "1e308", "-1e400", "NaN", "Infinity", '""', '"\\u0000"', '"\\ud800"', '"/../\\r\\nx: y"', json.dumps("x" * 100_000),
    "[]", "[[]]", "[true]", "[-1]", "[9223372036854775808]", '["\\ud800"]', json.dumps([1] * 5000), DEEP,
    json.dumps([""] * 5000), "{}", '{"type": "x"}', '{"-1": 1}', '{"5": NaN}', '{"a": 1, "a": 2}',
    json.dumps({str(n): 1 for n in range(5000)}), '{"a":' * 400 + "1" + "}" * 400,
]  # fmt: skip


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_hostile_values_in_every_field(server, alive, path):
    """Of one kind or none: refused at once by name, or honoured."""
    kind = CompletionRequest if path == COMPLETE else ChatRequest
    fields = [*kind.model_fields, *NEUTRAL_GENERATION, "unknown"]
    done = 0
    for field in fields:
        for value in RAW:
            base = {name: given for name, given in BASE[path].items() if name != field}
            body = json.dumps(base)[:-1] + f', "{field}": {value}}}'
            began = time.monotonic()
            answer = server.ask("POST", path, body.encode())
            refused = judged(answer) != 200
            assert not refused or time.monotonic() - began < 5
            done += not refused
    assert done > len(fields)  # null, or another that fits


BOMBS = {
    "nested repetition": {"regex": "(a+)+b"},
    "repetition of anything": {"regex": "(.*)*x"},
    "parentheses": {"regex": "(" * 30_000 + ")" * 30_000},
    "counted repetition": {"regex": "(((a{1,999}){1,999}){1,999}){1,999}"},
    "states": {"regex": "(.*a.{30})+b"},
    "deep schema": {"json": '{"items":' * 200 + "{}" + "}" * 200},
    "deeper schema": {"json": '{"items":' * 5000 + "{}" + "}" * 5000},
    "schema of itself": {"json": {"$ref": "#"}},
    "schemas of each other": {"json": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                                       "$ref": "#/$defs/a"}},
    "doubling": {"json": {"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
                                   | {"d30": {"type": "integer"}}, "$ref": "#/$defs/d0"}},
    "product": {"json": {"allOf": [{"anyOf": [{"properties": {f"p{k}{n}": {"type": "integer"}}} for n in range(6)]}
                                   for k in range(10)]}},
    "large enum": {"json": {"enum": [f"value {n}" for n in range(9000)]}},
    "large counts": {"json": {"type": "array", "items": {"type": "string", "minLength": 10**6}, "minItems": 10**9}},
    "large range": {"json": {"type": "number", "minimum": 1e-300, "maximum": 1e300, "multipleOf": 1e-300}},
    "white space": {"json": {}, "whitespace_pattern": "(\\s+)*"},
    "white space of anything": {"json": {}, "whitespace_pattern": ".*"},
    "pairs of patterns": {"json": {"patternProperties": {f"^{n}$": {} for n in range(1000, 2500)}}},
    "pairs of properties": {"json": {"properties": {f"{n}": {} for n in range(9000)}}},
    "intersected patterns": {"json": {"type": "string", "allOf": [{"pattern": f"{n}"} for n in range(100, 140)]}},
    "other document": {"json": {"$ref": "http://127.0.0.1:9/x.json"}},
    "file": {"json": {"$ref": "file:///etc/passwd"}},
    "left recursion": {"grammar": 'start: start "a" | start start | "b"'},
    "endless grammar": {"grammar": "start: start"},
    "empty loop": {"grammar": 'start: ("")*'},
    "unknown import": {"grammar": "%import /etc/passwd\nstart: A"},
    "ambiguous": {"grammar": 'start: a a a a a a a a "x"\na: ("y" | a a)*'},
    "many readings": {"grammar": "start: a*\na: /./ | /./ /./ | a a"},
    "nested gbnf": {"grammar": "root ::= " + "(" * 3000 + '"a"' + ")" * 3000},
    "deep tags": {"structural_tag": '{"format":' + '{"type":"star","content":' * 30 + '{"type":"any_text"}' + "}" * 31},
    "repeated tags": {"structural_tag": {"format": json.loads('{"type":"repeat","min":0,"max":1024,"content":' * 6
                                                             + '{"type":"const_string","value":"a"}' + "}" * 6)}},
    "many triggers": {"structural_tag": {"format": {
        "type": "triggered_tags", "triggers": [f"<{n}>" for n in range(900)],
        "tags": [{"begin": f"<{n}>", "content": {"type": "any_text"}, "end": ">"} for n in range(900)]}}},
    "forced for ever": {"grammar": 'start: "a" /b*/ "b"'},
    "forced whatever it says": {"grammar": 'start: /b*/ "b"\n%llguidance {"no_forcing": false}'},
    "forced by gbnf": {"grammar": 'root ::= b "b"\nb ::= [b]*'},
    "forced white space": {"json": {"type": "array", "items": {"enum": [1]}, "minItems": 9},
                           "whitespace_pattern": ",+"},
    "forced within a tag": {"structural_tag": {"format": {"type": "tag", "begin": "a", "end": "b",
                                                          "content": {"type": "regex", "pattern": "b*"}}}},
    "forced within a grammar of a tag": {"structural_tag": {"format": {"type": "tag", "begin": "a", "end": "b",
        "content": {"type": "grammar", "grammar": "start: /b*/"}}}},
    "many choices": {"choice": [f"{n}" for n in range(4097)]},
    "long choice": {"choice": ["x" * 200_000]},
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_form_that_is_a_bomb_costs_its_own_request(server, alive, name):
    """Refused, cut or followed in a bounded time; meanwhile others are answered."""
    found = []

    def ask():
        found.append(server.post(COMPLETE, prompt="Who", max_tokens=8, structured_outputs=BOMBS[name]))

    thread = threading.Thread(target=ask)
    thread.start()
    began = time.monotonic()
    assert server.post(COMPLETE, prompt="Hello", max_tokens=1).status == 200
    assert time.monotonic() - began < 10
    thread.join(60)
    assert found, "it takes too long"
    judged(found[0])


WORDS = st.sampled_from(["", "a", "b", "é", "😀", '"', "\\", "\n", "<", "<a>", "$ref", "type"])
SMALL = st.none() | st.booleans() | st.integers(-3, 5) | st.floats(-2, 5, allow_nan=False) | WORDS
KEYWORDS = st.sampled_from([
    "type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties", "minProperties",
    "maxProperties", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "pattern", "format", "minLength",
    "maxLength", "minimum", "maximum", "exclusiveMinimum", "multipleOf", "anyOf", "oneOf", "allOf", "not", "$ref",
    "$defs", "if", "then", "else", "dependentRequired", "$schema", "$id", "$anchor", "x-guidance",
])  # fmt: skip
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null", "#", "#/$defs/a", "date"])
VALUES = st.recursive(
    SMALL | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | WORDS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
SCHEMAS = st.booleans() | st.dictionaries(KEYWORDS, VALUES, max_size=5)
PATTERNS = st.text(st.sampled_from("ab(){}[]|*+?.^$\\dws-,1059&~é\n/"), min_size=1, max_size=24)
GRAMMARS = st.lists(
    st.sampled_from(['start: a', 'start: "x" A', "a: A | a a", "A: /[ab]+/", "%ignore / /", '%json {"type": "integer"}',
                     'root ::= "a" root | [0-9]+', "b ::= (root)*", "start: %regex {}", "a[lazy]: /.*/",
                     "start: <[5]>", "::=", ":"]),
    min_size=1, max_size=5,
).map("\n".join)  # fmt: skip
FORMATS = st.recursive(
    st.fixed_dictionaries({"type": st.just("const_string"), "value": WORDS})
    | st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": SCHEMAS})
    | st.fixed_dictionaries({"type": st.just("regex"), "pattern": PATTERNS})
    | st.fixed_dictionaries({"type": st.just("any_text")}, optional={"excludes": st.lists(WORDS, max_size=2)}),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.sampled_from(["sequence", "or"]), "elements": st.lists(inner, max_size=3)}
        )
        | st.fixed_dictionaries({"type": st.sampled_from(["star", "plus", "optional"]), "content": inner})
        | st.fixed_dictionaries({"type": st.just("tag"), "begin": WORDS, "content": inner, "end": WORDS})
        | st.fixed_dictionaries(
            {
                "type": st.just("triggered_tags"),
                "triggers": st.lists(WORDS, max_size=2),
                "tags": st.lists(
                    st.fixed_dictionaries({"begin": WORDS, "content": inner, "end": WORDS}), max_size=2
                ),
                "at_least_one": st.booleans(),
                "stop_after_first": st.booleans(),
            }
        )
    ),
    max_leaves=6,
)  # fmt: skip
FORMS = (
    st.fixed_dictionaries({"json": SCHEMAS}, optional={"disable_any_whitespace": st.booleans()})
    | st.fixed_dictionaries({"regex": PATTERNS})
    | st.fixed_dictionaries({"grammar": GRAMMARS})
    | st.fixed_dictionaries({"choice": st.lists(WORDS, max_size=3)})
    | st.fixed_dictionaries({"structural_tag": st.fixed_dictionaries({"format": FORMATS})})
    | st.dictionaries(st.sampled_from([*StructuredOutputs.model_fields, "json"]), VALUES, max_size=3)
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(form=FORMS, stream=st.booleans(), logprobs=st.none() | st.just(1), ids=st.none() | st.just([5, 70, 100]))
def test_any_form_is_followed_or_refused(server, form, stream, logprobs, ids):
    fields = {"max_tokens": 6, "logprobs": logprobs, "allowed_token_ids": ids, "stream": stream}
    answer = server.post(COMPLETE, prompt="Who", structured_outputs=form, **fields)
    judged(answer)


TALK = st.sampled_from([
    "role", "content", "type", "text", "name", "user", "assistant", "system", "tool", "developer", "function",
    "tool_calls", "tool_call_id", "arguments", "parameters", "strict", "id", "image_url", "url", "auto",
    "http://127.0.0.1:9/x", "required", "none", "{", "enable_thinking", "tokenize", "chat_template", "refusal",
    "reasoning_content",
])  # fmt: skip
SAID = st.recursive(
    SMALL | TALK | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TALK, inner, max_size=5),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({"role": TALK | SMALL, "content": SAID}, optional={"tool_calls": SAID, "name": SAID})
FUNCTION = st.fixed_dictionaries(
    {"name": TALK}, optional={"parameters": SCHEMAS, "strict": SMALL, "description": WORDS}
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}) | SAID


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fields=st.fixed_dictionaries(
        {"messages": st.lists(MESSAGE, min_size=1, max_size=3) | SAID},
        optional={
            "tools": st.lists(TOOL, max_size=3),
            "tool_choice": SAID,
            "chat_template_kwargs": st.dictionaries(TALK, SAID, max_size=3),
            "response_format": st.dictionaries(st.sampled_from(["type", "json_schema", "format"]), VALUES, max_size=3),
            "reasoning_effort": SAID,
            "stream": st.booleans(),
        },
    )
)
def test_any_conversation_is_answered_or_refused(server, fields):
    judged(server.post(CHAT, max_tokens=2, **fields))


def test_after_all_that_the_engine_is_the_same(server, alive):
    assert server.post(COMPLETE, prompt="Hi", max_tokens=4, json_schema={"enum": ["a"]}).json["choices"][0]["text"]
