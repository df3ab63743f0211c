"""Bad requests over HTTP: the status, the body's shape, the parameter named; and the next request is served."""

import json
import threading
import time

import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until

from octavo.checkpoint.source import open_source
from octavo.text.tokenizer import load_tokenizer

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
LIMIT = 2_000_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine()


@pytest.fixture(scope="module")
def server(engine, tokenizer):
    with served(engine, lambda: tokenizer, max_body_bytes=LIMIT, body_seconds=1.0) as made:
        until(made.front.ready)
        yield made


def test_a_good_request_is_served(server):
    assert server.post(COMPLETE, prompt="a", max_tokens=1).status == 200


@pytest.mark.parametrize(
    ("path", "fields", "status", "param", "code"),
    [
        (COMPLETE, {"prompt": "a", "model": "huge"}, 404, "model", "model_not_found"),
        (CHAT, {"messages": MESSAGES, "model": "x" * 10_000}, 404, "model", "model_not_found"),
        ("/tokenize", {"prompt": "a", "model": "huge"}, 404, "model", "model_not_found"),
        (COMPLETE, {"prompt": "a", "temperature": "hot"}, 400, "temperature", "invalid_value"),
        (COMPLETE, {"prompt": "a", "temperature": float("nan")}, 400, "temperature", "invalid_value"),
        (COMPLETE, {"prompt": "a", "top_p": float("-inf")}, 400, "top_p", "invalid_value"),
        (COMPLETE, {"prompt": "a", "wonder": 1}, 400, "wonder", "unknown_parameter"),
        (COMPLETE, {"prompt": ""}, 400, "prompt", "invalid_value"),
        (COMPLETE, {}, 400, "prompt", "missing_required_parameter"),
        (COMPLETE, {"prompt": [5, 320]}, 400, "prompt[1]", "invalid_value"),
        (COMPLETE, {"prompt": [[5], [6, 2**40]]}, 400, "prompt[1][1]", "invalid_value"),
        (COMPLETE, {"prompt": [2**70]}, 400, "prompt[0]", "invalid_value"),
        (COMPLETE, {"prompt": "a", "logit_bias": {"320": 1}}, 400, "logit_bias", "invalid_value"),
        (COMPLETE, {"prompt": "a", "stop_token_ids": [320]}, 400, "stop_token_ids", "invalid_value"),
        (COMPLETE, {"prompt": "a", "priority": 1}, 400, "priority", "invalid_value"),
        (COMPLETE, {"prompt": [5] * 512}, 400, "prompt", "context_length_exceeded"),
        (COMPLETE, {"prompt": "a b " * 3000}, 400, "prompt", "context_length_exceeded"),
        (COMPLETE, {"prompt": ["a", "a b " * 3000]}, 400, "prompt[1]", "context_length_exceeded"),
        (COMPLETE, {"prompt": [5] * 500, "max_tokens": 13}, 400, "prompt", "context_length_exceeded"),
        (COMPLETE, {"prompt": "a", "max_tokens": 2**31 - 1}, 400, "prompt", "context_length_exceeded"),
        (COMPLETE, {"prompt": ["a"] * 5, "n": 128}, 400, "n", "too_many_choices"),
        (COMPLETE, {"prompt": "a", "min_tokens": 2**31 - 1}, 400, "min_tokens", "invalid_value"),
        (CHAT, {"messages": [{"role": "user", "content": "a b " * 3000}]}, 400, "messages", "context_length_exceeded"),
        (CHAT, {"messages": []}, 400, "messages", "invalid_value"),
        (CHAT, {"messages": MESSAGES, "min_tokens": 5000}, 400, "min_tokens", "invalid_value"),
        (CHAT, {"messages": MESSAGES, "tools": [{}]}, 400, "tools[0].type", "missing_required_parameter"),
        ("/tokenize", {}, 400, "prompt", "missing_required_parameter"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, 400, "chat_template", "invalid_value"),
        ("/detokenize", {"tokens": [5, 10_000]}, 400, "tokens[1]", "invalid_value"),
        ("/detokenize", {"tokens": [2**64]}, 400, "tokens[0]", "invalid_value"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named(server, engine, path, fields, status, param, code, stream):
    if stream and path in (CHAT, COMPLETE):
        fields = fields | {"stream": True}
    asked = len(engine.requests)
    answer = server.post(path, **fields)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (status, param, code)
    assert answer.headers["content-type"] == "application/json"
    assert param in answer.error["message"] or param == "n"
    assert len(answer.body) < 1500
    assert len(engine.requests) == asked


def test_a_prompt_that_is_too_long_names_both_numbers(server):
    message = server.post(COMPLETE, prompt=[5] * 600).error["message"]
    assert "600" in message and "512" in message


def test_the_default_number_of_tokens_shrinks_to_what_fits(server):
    assert server.post(COMPLETE, prompt=[5] * 510).json["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"hello", "not valid JSON"),
        (b'{"prompt": "\xc3\x28"}', "UTF-8 at byte 12"),
        (b'{"prompt": "a"', "not valid JSON"),
        (b'"prompt"', "JSON object"),
        (b'{"prompt": "a", "prompt": "b"}', "given twice"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "too deeply"),
        (b'{"prompt": ' + b"9" * 100_000 + b"}", "digits"),
    ],
)
def test_bodies_that_are_not_a_request(server, body, said):
    answer = server.ask("POST", COMPLETE, body)
    assert answer.status == 400
    assert said in answer.error["message"]


def test_kinds_of_body_that_are_not_read(server):
    for headers in ({"content_type": "text/plain"}, {"content_type": "application/x-www-form-urlencoded"}):
        assert server.ask("POST", COMPLETE, {"prompt": "a"}, **headers).status == 415
    answer = server.ask("POST", COMPLETE, b"\x1f\x8b", content_encoding="gzip")
    assert (answer.status, answer.error["param"]) == (415, "content-encoding")
    good = server.ask("POST", COMPLETE, {"prompt": "a"}, content_type="application/json; charset=utf-8")
    assert good.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/images", 404),
        ("GET", "/v1/models/huge", 404),
        ("GET", "/v1/models/../models", 404),
        ("GET", "/v1/models/", 404),
        ("GET", COMPLETE, 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", CHAT, 405),
        ("POST", "/live", 405),
    ],
)
def test_routes_and_methods_that_are_not_there(server, method, path, status):
    answer = server.ask(method, path, {})
    assert answer.status == status
    assert answer.error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


def test_a_body_over_the_limit_is_refused_and_the_connection_goes_on(server):
    big = json.dumps({"prompt": "x" * 10_000_000}).encode()
    talk = server.connect()
    sender = threading.Thread(target=talk.send, args=("POST", COMPLETE, big))
    sender.start()
    answer = talk.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    sender.join()
    talk.send("GET", "/live")
    assert talk.answer().status == 200
    talk.close()


def test_a_chunked_body_over_the_limit_is_refused_before_its_end(server):
    talk = server.connect()
    talk.sock.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(LIMIT // 0x10000 + 1):
        talk.sock.sendall(chunk)
    assert talk.answer().status == 413  # its last chunk never came
    talk.close()


def test_a_chunked_body_under_the_limit_is_read(server):
    talk = server.connect()
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    talk.sock.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    for byte in body:
        talk.sock.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
    talk.sock.sendall(b"0\r\n\r\n")
    assert talk.answer().status == 200
    talk.close()


def test_a_body_that_does_not_come_is_given_up(server):
    talk = server.connect()
    talk.send("POST", COMPLETE, b"{", content_length="100")
    answer = talk.answer()
    assert (answer.status, answer.error["type"]) == (408, "timeout_error")
    talk.close()


def test_heads_that_are_too_long_or_not_http(server):
    for data, status in (
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 500_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000, 431),
        (b"GET /" + b"z" * 500_000, 431),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ):
        talk = server.connect()
        try:
            talk.sock.sendall(data)
            answer = talk.answer()
        except ConnectionError:  # the refusal was lost: the server broke off in the middle of our sending
            assert status == 431
        else:
            assert (answer.status, bool(answer.error["message"])) == (status, True)
        talk.close()
    assert server.ask("GET", "/live").status == 200


def test_every_answer_has_a_request_id_and_odd_ones_are_refused(server):
    for path in ("/live", "/nowhere", "/v1/models"):
        for name in ("abc-1.2:3", "a;b/c(d)", "!" * 128):
            assert server.ask("GET", path, x_request_id=name).headers["x-request-id"] == name
        for bad in ("a b", "x" * 129, "\xe9", "a\tb"):
            answer = server.ask("GET", path, x_request_id=bad)
            assert (answer.status, answer.error["param"]) == (400, "x-request-id")
            assert len(answer.headers["x-request-id"]) == 32
        assert len(server.ask("GET", path, x_request_id="").headers["x-request-id"]) == 32
        assert len(server.ask("GET", path).headers["x-request-id"]) == 32


def test_a_large_prompt_does_not_hold_up_the_others(server):
    done = threading.Event()
    answers = []

    def large():
        answers.append(server.post(COMPLETE, prompt="hello world " * 80_000))
        done.set()

    thread = threading.Thread(target=large)
    thread.start()
    lived = 0
    while not done.is_set():
        assert server.ask("GET", "/live").status == 200
        lived += not done.is_set()
        time.sleep(0.005)
    thread.join()
    assert answers[0].error["code"] == "context_length_exceeded"
    assert lived >= 3  # /live was answered while the large prompt was in work


def test_after_all_that_nothing_is_left_and_the_next_request_is_served(server, engine):
    assert server.post(CHAT, messages=MESSAGES, max_tokens=1).status == 200
    assert engine.live == {}
    until(lambda: server.front.inflight == 0)
