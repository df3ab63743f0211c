"""The OpenAPI document is complete and true: it lists what is served, and what is served fits it."""

import jsonschema
import pytest
import schemathesis
import tiny_llama
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from scripted_engine import ScriptedEngine
from served import served, until

from octavo.checkpoint.source import open_source
from octavo.core.request import TASKS
from octavo.core.status import PoolingInfo
from octavo.protocol.openapi import OPERATIONS, document
from octavo.text.tokenizer import load_tokenizer

DOCUMENT = document("0")
SCHEMAS = DOCUMENT["components"]["schemas"]
MESSAGES = [{"role": "user", "content": "Hello, wörld"}]
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "b"}
BODIES = {
    "/v1/chat/completions": [
        {"messages": MESSAGES, "max_tokens": 4},
        {"messages": MESSAGES, "max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True},
        {"messages": MESSAGES, "max_tokens": 4, "prompt_logprobs": 1, "stop": ["e", "f"], "logit_bias": {"5": 1}},
        {"messages": [*MESSAGES, CALLED, RESULT], "max_tokens": 4},
    ],
    "/v1/completions": [
        {"prompt": "Hello", "max_tokens": 4},
        {"prompt": ["Hello", "there"], "max_tokens": 4, "logprobs": 2, "echo": True, "return_token_ids": True},
        {"prompt": [[1, 2, 3]], "max_tokens": 4, "prompt_logprobs": 1},
    ],
    "/v1/embeddings": [
        {"input": "Hello"},
        {"input": [[5, 6], [7]], "encoding_format": "base64"},
        {"messages": MESSAGES, "add_generation_prompt": True},
    ],
    "/pooling": [{"input": "Hello"}, {"input": ["Hello", "there"], "task": "token_classify"}, {"messages": MESSAGES}],
    "/classify": [{"input": ["Hello", "there"]}],
    **{path: [{"text_1": "Hello", "text_2": ["Hello", "there"]}] for path in ("/score", "/v1/score")},
    **{
        path: [{"query": "Hello", "documents": ["you", {"text": "there"}]}, {"query": "a", "documents": ["b"]}]
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    },
    "/tokenize": [{"prompt": "Hello", "return_token_strs": True}, {"messages": MESSAGES}],
    "/detokenize": [{"tokens": [5, 6, 7]}, {"tokens": []}],
}
STREAMED = [kind for kind in OPERATIONS if kind.streams]


POOLED = [kind.path for kind in OPERATIONS if kind.group == "Pooling"]
POOLING = PoolingInfo(tasks=list(TASKS), width=3, labels=["red", "green", "blue"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    with open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True)) as source:
        return load_tokenizer(source)


@pytest.fixture(scope="module")
def server(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer) as running:
        until(running.front.ready)
        yield running


@pytest.fixture(scope="module")
def pooling(tokenizer):
    with served(ScriptedEngine(pooling=POOLING), lambda: tokenizer) as running:
        until(running.front.ready)
        yield running


def check(value, name):
    """Raise where a value does not fit a schema of the document."""
    jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **DOCUMENT}).validate(value)


def untyped(schema):
    """Whether a schema says nothing of what fits it."""
    told = {name: value for name, value in schema.items() if name not in ("description", "default", "title")}
    return not told or any(untyped(each) for each in told.get("anyOf", ()))


def test_it_lists_what_is_served_and_nothing_else(server):
    served_paths = {
        (method.lower(), route.path.replace(":path", ""))
        for route in server.app.routes
        for method in route.methods - {"HEAD"}
    }
    about_itself = {("get", "/openapi.json"), ("get", "/docs")}
    assert {(operation.method, operation.path) for operation in OPERATIONS} == served_paths - about_itself
    given = server.ask("GET", "/openapi.json").json
    assert given == document(given["info"]["version"])


def test_every_endpoint_is_exercised_here():
    assert {operation.path for operation in OPERATIONS if operation.asks} == BODIES.keys()


def test_every_field_says_what_fits_it():
    requests = [operation.asks.__name__ for operation in OPERATIONS if operation.asks]
    assert not [
        f"{name}.{field}"
        for name in requests
        for field, schema in SCHEMAS[name]["properties"].items()
        if untyped(schema)
    ]


def test_every_field_of_a_request_is_described():
    asked = {operation.asks.__name__ for operation in OPERATIONS if operation.asks}
    assert not [(name, field) for name in asked for field, told in SCHEMAS[name]["properties"].items()
                if not told.get("description")]  # fmt: skip


BEYOND = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0}
RANGES = [
    (field, limit, schema[limit])
    for field, told in SCHEMAS["CompletionRequest"]["properties"].items()
    for schema in (told, *told.get("anyOf", ()))
    for limit in BEYOND.keys() & schema.keys()
]


@pytest.mark.parametrize(("field", "limit", "value"), sorted(RANGES, key=str))
def test_ranges_are_those_that_are_kept(server, field, limit, value):
    body = BODIES["/v1/completions"][0] | {field: value + BEYOND[limit]}
    answer = server.ask("POST", "/v1/completions", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, field)


@pytest.mark.parametrize("operation", [kind for kind in OPERATIONS if kind.asks], ids=lambda kind: kind.path)
def test_what_is_asked_and_given_fits(server, pooling, operation):
    server = pooling if operation.path in POOLED else server
    for body in BODIES[operation.path]:
        check(body, operation.asks.__name__)
        answer = server.ask("POST", operation.path, body)
        assert answer.status == 200, answer.body
        check(answer.json, operation.gives.__name__)
        assert answer.json.keys() <= SCHEMAS[operation.gives.__name__]["properties"].keys()


@pytest.mark.parametrize("operation", STREAMED, ids=lambda kind: kind.path)
def test_what_is_streamed_fits(server, operation):
    body = BODIES[operation.path][0] | {"stream": True, "stream_options": {"include_usage": True}}
    events = server.ask("POST", operation.path, body).events
    assert events.pop() == "[DONE]"
    for event in events:
        check(event, operation.streams.__name__)


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/version", "/v1/models", "/v1/models/tiny"])
def test_status_fits(server, path):
    [operation] = [kind for kind in OPERATIONS if kind.path == path.replace("/tiny", "/{name}")]
    check(server.ask("GET", path).json, operation.gives.__name__)


def test_errors_fit(server):
    for body in ({}, {"prompt": 7}, {"prompt": "a", "nothing": 1}):
        answer = server.ask("POST", "/v1/completions", body)
        assert answer.status == 400
        check(answer.json, "ErrorBody")


def test_known_fields_that_are_not_supported_take_only_what_changes_nothing(server):
    for operation in OPERATIONS:
        for field in operation.neutral:
            for value in SCHEMAS[operation.asks.__name__]["properties"][field]["enum"]:
                body = BODIES[operation.path][0] | {field: value}
                assert server.ask("POST", operation.path, body).status == 200, (field, value)
            assert server.ask("POST", operation.path, BODIES[operation.path][0] | {field: 12345}).status == 400


schema = schemathesis.openapi.from_dict(DOCUMENT)


@schema.parametrize()
@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_request_that_fits_makes_the_server_fail(case, server, pooling):
    address = (pooling if case.operation.path in POOLED else server).address
    case.headers["content-type"] = "application/json"
    response = case.call(base_url=f"http://{address[0]}:{address[1]}", timeout=20)
    case.validate_response(response, checks=[not_a_server_error])


def test_a_person_reads_it(server):
    answer = server.ask("GET", "/docs")
    page = answer.body.decode()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<script" not in page.lower()
    for operation in OPERATIONS:
        assert operation.path in page
    for name, told in SCHEMAS.items():
        assert f'id="{name}"' in page
        assert all(f"<code>{field}</code>" in page for field in told.get("properties", {}))
