"""Clients that leave in every way and at every stage, or do not read: their work is given up, the others go on."""

import socket
import threading

import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until

from octavo.checkpoint.source import open_source
from octavo.text.tokenizer import load_tokenizer

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
OTHER = {"prompt": "somebody else", "max_tokens": 40, "seed": 7, "stream": True}
MINE = {"prompt": "I shall leave", "max_tokens": 400}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    source = open_source(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))
    yield load_tokenizer(source)
    source.close()


def text(answer):
    return "".join(event["choices"][0]["text"] for event in answer.events[:-1])


def read_all(talk):
    while talk.sock.recv(65536):
        pass


LEAVE = {
    "reset": lambda talk: talk.reset(),
    "close": lambda talk: talk.close(),
    "half close": lambda talk: talk.sock.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", LEAVE)
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
def test_who_leaves_is_given_up_and_the_others_do_not_notice(tokenizer, stage, way, stream):
    engine = ScriptedEngine(slots=1 if stage == "queued" else 2)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        alone = text(server.post(COMPLETE, **OTHER))
        engine.held = True
        other, mine = server.connect(), server.connect()
        other.send("POST", COMPLETE, OTHER)
        until(lambda: "running" in engine.live.values())
        mine.send("POST", COMPLETE, MINE | {"stream": stream})
        until(lambda: len(engine.live) == 2)
        ours = list(engine.live)[1]
        assert engine.live[ours] == ("queued" if stage == "queued" else "running")
        if stage == "decode":
            before = engine.generated
            engine.seconds_per_token = 0.002
            engine.held = False
            until(lambda: engine.generated > before + 2)
            if stream:
                assert mine.head()[0] == 200
                assert mine.chunk().startswith(b"data: ")
        LEAVE[way](mine)
        until(lambda: ours in engine.given_up)
        engine.held = False
        assert text(other.answer()) == alone
        assert engine.given_up == [ours]
        assert engine.live == {}
        until(lambda: server.front.inflight == 0)
        other.close()
        mine.close()


def test_all_choices_of_who_leaves_are_given_up(tokenizer):
    engine = ScriptedEngine(slots=2, seconds_per_token=0.002)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        for path, fields in ((COMPLETE, MINE), (CHAT, {"messages": [{"role": "user", "content": "a"}]})):
            for stream in (True, False):
                talk = server.connect()
                talk.send("POST", path, fields | {"n": 5, "stream": stream})
                until(lambda: len(engine.live) == 5)
                talk.reset()
                until(lambda: not engine.live)
        assert len(engine.given_up) == 20


def test_who_leaves_while_sending_a_body_leaves_nothing(tokenizer):
    engine = ScriptedEngine()
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        for leave in LEAVE.values():
            talk = server.connect()
            talk.send("POST", COMPLETE, b'{"prompt": "a', content_length="1000")
            until(lambda: server.front.inflight == 1)
            leave(talk)
            until(lambda: server.front.inflight == 0)
            talk.close()
        assert engine.requests == []
        assert (
            'octavo_requests_total{endpoint="/v1/completions",status="499"} 3.0' in server.front.meter.text().decode()
        )


LARGE = {"prompt": "much", "max_tokens": 400, "n": 4, "logprobs": 20, "stream": True}  # about 5 MB


@pytest.mark.parametrize(
    "limits",
    [{"backlog_bytes": 50_000, "stall_seconds": 60.0}, {"backlog_bytes": 2**30, "stall_seconds": 0.3}],
    ids=["much waits", "it waits long"],
)
def test_who_does_not_read_is_given_up_and_the_others_do_not_notice(tokenizer, limits):
    engine = ScriptedEngine(slots=5, seconds_per_token=0.0005)
    with served(engine, lambda: tokenizer, send_buffer=4096, **limits) as server:
        until(server.front.ready)
        alone = text(server.post(COMPLETE, **OTHER))
        engine.held = True
        talk = server.connect(receive_buffer=4096)
        talk.send("POST", COMPLETE, LARGE)
        until(lambda: len(engine.live) == 4)
        engine.held = False
        assert text(server.post(COMPLETE, **OTHER)) == alone
        until(lambda: not engine.live and server.front.inflight == 0)
        assert limits["stall_seconds"] < 1 or len(engine.given_up) == 4  # where it waits long, all was generated
        with pytest.raises(ConnectionResetError):
            read_all(talk)
        talk.close()
        assert text(server.post(COMPLETE, **OTHER)) == alone


def test_who_reads_late_gets_everything(tokenizer):
    engine = ScriptedEngine(slots=5)
    with served(engine, lambda: tokenizer, send_buffer=4096, backlog_bytes=2**24) as server:
        until(server.front.ready)
        fields = LARGE | {"seed": 1, "max_tokens": 100}
        prompt = server.post(COMPLETE, **fields)
        talk = server.connect(receive_buffer=4096)
        talk.send("POST", COMPLETE, fields)
        until(lambda: len(engine.ended) == 8)  # all is generated, little is read
        late = talk.answer()
        talk.close()
        assert late.events[-1] == "[DONE]"
        for index in range(4):
            texts = [
                "".join(c["text"] for event in answer.events[:-1] for c in event["choices"] if c["index"] == index)
                for answer in (prompt, late)
            ]
            assert texts[0] == texts[1] != ""
        assert engine.given_up == []


def test_pipelined_requests_are_answered_in_turn(tokenizer):
    engine = ScriptedEngine(seconds_per_token=0.001)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        talk = server.connect()
        for path, fields in (
            (COMPLETE, OTHER),
            (COMPLETE, MINE | {"max_tokens": 3}),
            ("/detokenize", {"tokens": [70]}),
        ):
            talk.send("POST", path, fields)
        assert talk.answer().events[-1] == "[DONE]"
        assert talk.answer().json["usage"]["completion_tokens"] == 3
        assert "prompt" in talk.answer().json
        talk.close()


def test_garbage_behind_a_request_breaks_the_connection_and_is_not_answered_within_the_stream(tokenizer):
    engine = ScriptedEngine(seconds_per_token=0.002)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        talk = server.connect()
        talk.send("POST", COMPLETE, MINE | {"stream": True})
        assert talk.head()[0] == 200
        assert talk.chunk().startswith(b"data: ")
        talk.sock.sendall(b"\x00\x01\x02 no HTTP\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(talk)
        until(lambda: len(engine.given_up) == 1)
        talk.close()


def test_connections_beyond_the_limit_are_told_so(tokenizer):
    with served(ScriptedEngine(), lambda: tokenizer, limit=3) as server:
        talks = [server.connect() for _ in range(3)]
        for talk in talks:
            talk.send("GET", "/live")
            assert talk.answer().status == 200
        refused = server.ask("GET", "/live")
        assert (refused.status, refused.error["type"]) == (503, "service_unavailable_error")
        for talk in talks:
            talk.close()
        until(lambda: not server.server.server_state.connections)
        assert server.ask("GET", "/live").status == 200


def test_many_clients_at_once_all_get_their_own_answer(tokenizer):
    engine = ScriptedEngine(slots=8, max_queued=64, seconds_per_token=0.0005)
    with served(engine, lambda: tokenizer) as server:
        until(server.front.ready)
        prompts = [f"question {k}" for k in range(24)]
        fields = {"max_tokens": 20, "temperature": 0}
        alone = [server.post(COMPLETE, prompt=prompt, **fields).json["choices"][0]["text"] for prompt in prompts]
        together = {}

        def ask(prompt, stream):
            answer = server.post(COMPLETE, prompt=prompt, stream=stream, **fields)
            together[prompt] = text(answer) if stream else answer.json["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=(p, k % 2 == 0)) for k, p in enumerate(prompts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [together[prompt] for prompt in prompts] == alone
