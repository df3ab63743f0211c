"""The load client against the real front, and against raw sockets that cut, refuse, stall and vanish."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until

from octavo.bench.client import Target
from octavo.bench.figures import figures
from octavo.bench.load import Asking, Run, measure
from octavo.bench.workload import Workload
from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue, UserError
from octavo.text.tokenizer import load_tokenizer

SMALL = {"input_len": 12, "output_len": 6, "num_prompts": 10, "num_warmups": 0, "vocab_size": 300}
ASKING = Asking("/v1/completions", more={"temperature": 0, "ignore_eos": True})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of the tiny model."""
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


def loaded(url: str, asking: Asking = ASKING, *, warm: bool = False, timeout: float = 20.0, **load: object) -> Run:
    """One run against a URL."""
    told: list[int] = []
    done = measure(Target(url, None, timeout), asking, Workload(**SMALL | load), (0,), warm=warm, told=told.append)
    assert sum(told) == len(done.answers) == len(done.jobs)
    return done


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_our_server_answers_as_asked(tokenizer, endpoint, suffix):
    engine = ScriptedEngine(slots=16)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        done = loaded(server.url + suffix, Asking(endpoint, more=ASKING.more), max_concurrency=3)
        assert done.model == "tiny"
        assert [answer.error for answer in done.answers] == [None] * 10
        assert [(answer.output_tokens, answer.counted) for answer in done.answers] == [(6, "usage")] * 10
        if endpoint == "/v1/completions":
            assert sorted(request.prompt for request in engine.requests) == sorted(job.prompt for job in done.jobs)
            assert {answer.prompt_tokens for answer in done.answers} == {12}
        assert all(request.sampling.max_tokens == 6 and request.sampling.ignore_eos for request in engine.requests)
        found = figures(done, {"e2el": 1e6})
        assert found["peak_concurrency"] <= 3 and found["goodput"] == found["request_rate"] > 0
        assert done.client_cpu > 0 and done.server_cpu is not None, "it listens in this very process"
        for answer in done.answers:
            assert (
                done.began <= answer.arrived <= answer.sent < answer.first <= answer.last <= done.began + done.seconds
            )


def test_a_closed_loop_keeps_its_places_full_and_its_connections(tokenizer):
    engine = ScriptedEngine(slots=16, seconds_per_token=0.002)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        done = loaded(server.url, max_concurrency=4, num_prompts=24)
        found = figures(done, {})
        assert found["peak_concurrency"] == 4 and found["failed"] == 0
        assert [answer.arrived for answer in done.answers] == [done.began] * 24
        late = sorted(answer.sent - answer.arrived for answer in done.answers)
        assert late[4] > late[3], "the fifth waits for a place"
        assert found["ms"]["e2el_with_queue"]["mean"] > found["ms"]["e2el"]["mean"]


def test_an_open_loop_sends_when_due_whoever_is_not_done(tokenizer):
    engine = ScriptedEngine(slots=32)
    engine.held = True
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        release = threading.Timer(0.4, setattr, (engine, "held", False))
        release.start()
        done = loaded(server.url, request_rate=50.0, burstiness=math.inf, num_prompts=10)
        release.join()
        assert [answer.arrived - done.began for answer in done.answers] == pytest.approx([k / 50 for k in range(1, 11)])
        assert all(answer.sent >= answer.arrived for answer in done.answers)
        assert figures(done, {})["peak_concurrency"] == 10


def test_warmups_are_asked_and_not_counted(tokenizer):
    engine = ScriptedEngine(slots=32)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        done = loaded(server.url, warm=True, num_warmups=5)
        assert len(done.answers) == 10 and len(engine.requests) == 15


def test_a_server_that_refuses_is_an_error_rate(tokenizer):
    """One runs, one waits, the others get 429."""
    engine = ScriptedEngine(slots=1, max_queued=1)
    engine.held = True
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        release = threading.Thread(target=lambda: (until(lambda: len(engine.live) == 2), time.sleep(0.2), free()))

        def free() -> None:
            engine.held = False

        release.start()
        found = figures(loaded(server.url), {})
        release.join()
        assert found["requests"] == 10 and found["failed"] >= 1
        assert all(error.startswith("HTTP 429: ") for error in found["errors"])
        assert found["output_tokens"] == 6 * (10 - found["failed"])


def test_a_crash_behind_the_headers_is_an_error(tokenizer):
    engine = ScriptedEngine(lambda request: [5, 6, None], slots=32)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        found = figures(loaded(server.url), {})
        assert found["error_rate"] == 1 and list(found["errors"]) == ["error event: the logits are not finite"]


def test_keys_and_wrong_models_are_told(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer, api_keys=("sesame",)) as server:
        until(server.front.ready)
        with pytest.raises(UserError, match="/v1/models does not answer: HTTP 401"):
            loaded(server.url)
        told = Target(server.url, "sesame", 20.0)
        assert figures(measure(told, ASKING, Workload(**SMALL), (0,), False, lambda n: None), {})["failed"] == 0
        wrong = Asking("/v1/completions", model="nobody")
        errors = figures(measure(told, wrong, Workload(**SMALL), (0,), False, lambda n: None), {})["errors"]
        assert list(errors.values()) == [10] and next(iter(errors)).startswith("HTTP 404: ")


# Raw sockets.

CHUNKS = [
    b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n',
    b'data: {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 6}}\n\n',
    b"data: [DONE]\n\n",
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
BARE = HEAD + b"Connection: close\r\n\r\n"  # ends with the connection
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunked(parts: list[bytes]) -> bytes:
    """A whole chunked response."""
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


WHOLE = chunked(CHUNKS)


@contextlib.contextmanager
def answering(act: Callable[[socket.socket, int], bool]) -> Iterator[tuple[str, list[bytes]]]:
    """A server whose every request `act(connection, number)` answers; False ends the connection. Gives what came."""
    listening = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []
    lock = threading.Lock()
    threads = []

    def serve(sock: socket.socket) -> None:
        sock.settimeout(20)
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := whole_request(sock):
                with lock:
                    requests.append(request)
                    number = len(requests) - 1
                if not act(sock, number):
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listening.accept()[0],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", requests
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(20)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def whole_request(sock: socket.socket) -> bytes:
    """Head and body of the next request; empty where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (more := sock.recv(65536))
        if not more:
            return b""
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


NAMED = Asking("/v1/completions", model="m")


def one(url: str, timeout: float = 20.0) -> tuple[str | None, int]:
    """Error and tokens of a single request."""
    (answer,) = loaded(url, NAMED, num_prompts=1, timeout=timeout).answers
    return answer.error, answer.output_tokens


def test_a_response_cut_at_every_byte_is_whole():
    """One request for each place, all on few connections that are kept."""

    def act(sock: socket.socket, number: int) -> bool:
        sock.sendall(WHOLE[:number])
        time.sleep(0.001)
        sock.sendall(WHOLE[number:])
        return True

    with answering(act) as (url, requests):
        done = loaded(url, NAMED, num_prompts=len(WHOLE), max_concurrency=4)
        assert {answer.error for answer in done.answers} == {None}
        assert {(answer.output_tokens, answer.prompt_tokens, len(answer.gaps)) for answer in done.answers} == {
            (6, 12, 1)
        }
        assert len(requests) == len(WHOLE)


def test_a_response_byte_by_byte_is_whole():
    def act(sock: socket.socket, number: int) -> bool:
        for i in range(len(WHOLE)):
            sock.sendall(WHOLE[i : i + 1])
        return True

    with answering(act) as (url, _):
        assert one(url) == (None, 6)


def test_a_request_is_what_it_should_be():
    with answering(lambda sock, number: sock.sendall(WHOLE) is None) as (url, requests):
        asking = Asking("/v1/completions", "m", {"temperature": 0, "cache_prompt": False})
        measure(Target(url + "/behind/v1", "sesame", 9.0), asking, Workload(**SMALL), (0,), False, lambda n: None)
        head, _, body = requests[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /behind/v1/completions HTTP/1.1"
        assert {"Authorization: Bearer sesame", "Host: " + url[7:], f"Content-Length: {len(body)}"} <= set(lines)
        found = json.loads(body)
        assert len(found.pop("prompt")) == 12
        wanted = {"model": "m", "max_tokens": 6, "stream": True, "stream_options": {"include_usage": True}}
        assert found == wanted | {"temperature": 0, "cache_prompt": False}


def reset(sock: socket.socket) -> bool:
    """End the connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def sent(sock: socket.socket, *parts: bytes) -> None:
    """Send, and let it arrive before anything else happens."""
    for part in parts:
        sock.sendall(part)
        time.sleep(0.02)


FAILURES = {
    "closed at once": (lambda sock: False, "connection lost"),
    "reset at once": (reset, "connection lost"),
    "reset in the head": (lambda sock: sent(sock, HEAD) or reset(sock), "connection lost"),
    "closed behind the head": (lambda sock: sent(sock, BARE) or False, "connection lost"),
    "closed in the stream": (lambda sock: sent(sock, BARE, CHUNKS[0]) or False, "connection lost"),
    "reset in the stream": (lambda sock: sent(sock, CHUNKED, b"99\r\n", CHUNKS[0]) or reset(sock), "connection lost"),
    "ended without an end": (lambda sock: sent(sock, chunked(CHUNKS[:1])) or False, "ended before the answer did"),
    "not HTTP": (lambda sock: sent(sock, b"SSH-2.0-server\r\n\r\n") or False, "not HTTP"),
    "no stream": (
        lambda sock: sent(sock, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}") or True,
        "not a stream of events",
    ),
    "busy": (
        lambda sock: sent(sock, b'HTTP/1.1 503 Busy\r\nContent-Length: 22\r\n\r\n{"error": "come back"}') or True,
        "HTTP 503: come back",
    ),
    "upgrade": (lambda sock: sent(sock, b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n") or 1, "101"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_counted_and_the_next_request_is_well(name):
    act, said = FAILURES[name]
    with answering(lambda sock, number: act(sock) if number == 0 else sock.sendall(WHOLE) is None) as (url, _):
        done = loaded(url, NAMED, num_prompts=3, max_concurrency=1)
        assert said in done.answers[0].error
        assert [answer.error for answer in done.answers[1:]] == [None, None]
        assert figures(done, {})["failed"] == 1


def test_a_stream_that_ends_with_its_connection_is_whole():
    with answering(lambda sock, number: sent(sock, BARE, *CHUNKS) or False) as (url, _):
        assert one(url) == (None, 6)


def test_who_says_nothing_is_left_in_time():
    gone = threading.Event()

    def act(sock: socket.socket, number: int) -> bool:
        sock.sendall(CHUNKED)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b"", "the client should leave"
        gone.set()
        return False

    with answering(act) as (url, _):
        assert one(url, timeout=0.2) == ("no whole answer within 0.2 s", 0)
        assert gone.wait(20)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used():
    closed = threading.Event()

    def act(sock: socket.socket, number: int) -> bool:
        sock.sendall(WHOLE)
        closed.set()
        return False

    with answering(act) as (url, requests):
        done = loaded(url, NAMED, num_prompts=4, request_rate=10.0, burstiness=math.inf)
        assert [answer.error for answer in done.answers] == [None] * 4 and len(requests) == 4


def test_nobody_there_is_an_error_before_the_load():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(UserError, match="does not answer: no connection"):
        loaded(url)
    assert one(url)[0].startswith("no connection: "), "with a model's name it is not asked first"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://host:99999"])
def test_wrong_urls_are_refused(url):
    with pytest.raises(InvalidValue, match=r"^url: "):
        Target(url, None, 1.0)


def test_a_chat_of_token_ids_is_refused():
    with pytest.raises(InvalidValue, match=r"^prompt_form: 'ids'"):
        Asking("/v1/chat/completions").words(Workload(prompt_form="ids"))
    assert Asking("/v1/chat/completions").words(Workload()) and not Asking("/v1/completions").words(Workload())
