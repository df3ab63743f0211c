"""Messages over the socket: whatever the pieces they arrive in, and never blocking on a slow reader."""

from __future__ import annotations

import socket
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.config import CacheConfig
from octavo.core.errors import EngineFault
from octavo.core.plan import Output, StepStats, TokenLogprob
from octavo.core.request import Request, SamplingParams
from octavo.core.status import EngineInfo
from octavo.engine import ipc
from octavo.engine.config import LaunchConfig

REQUEST = Request(
    id="a",
    prompt=[1, 2, 3],
    sampling=SamplingParams(logit_bias={3: -1.5}, stop=["x"], stop_token_ids=[4], max_tokens=None, logprobs=2),
    eos_ids=[2],
    seed=-(2**63),
    salt="tenant",
)
OUTPUT = Output(
    id="a",
    tokens=[5],
    logprobs=[TokenLogprob(5, -0.25, 1, [(5, -0.25), (6, -1.0)])],
    prompt_logprobs=[TokenLogprob(2, -3.0, 9)],
    finish="stop",
    stop_reason=5,
    cached=32,
)
TO_ENGINE = [ipc.Launch(LaunchConfig("/m", cache=CacheConfig(memory_bytes=5))), ipc.Submit(REQUEST), ipc.Abort("a")]
TO_FRONT = [
    ipc.Progress(0.5, "weights"),
    ipc.Ready(EngineInfo(model="m", max_len=5, vocab=7, eos_ids=[2], memory={"weights": 3})),
    ipc.Outputs([OUTPUT, Output(id="b", finish="error", error="why")], StepStats(steps=3, finished={"stop": 1})),
    ipc.Refused("a", "QueueFull", "full", None, None),
    ipc.Heartbeat(),
    ipc.Failed("no", True),
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400)))
def test_messages_arrive_whole_in_whatever_pieces(cuts):
    data = b"".join(ipc.frame(message) for message in TO_FRONT * 3)
    frames, got, start = ipc.Frames(), [], 0
    for cut in [*cuts, len(data)]:
        got += [ipc.to_front.decode(body) for body in frames.feed(data[start : start + cut])]
        start += cut
    assert got == TO_FRONT * 3


def test_messages_to_the_engine_survive_the_way():
    bodies = ipc.Frames().feed(b"".join(map(ipc.frame, TO_ENGINE)))
    assert [ipc.to_engine.decode(body) for body in bodies] == TO_ENGINE


def test_what_is_no_message_is_an_error():
    with pytest.raises(EngineFault, match="broken"):
        ipc.Frames().feed(b"\xff\xff\xff\xff")
    for body in (b"", b"junk", b"\x80", ipc.frame(ipc.Heartbeat())[4:]):
        with pytest.raises(msgspec.DecodeError):
            ipc.to_engine.decode(body)


def test_a_slow_reader_never_blocks_the_writer_and_gets_everything_in_order():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = ipc.Outbox(theirs)
        count = 3000
        for number in range(count):  # far more than the socket holds
            outbox.send(ipc.Progress(float(number), "x" * 300))
        assert not outbox.flush()
        outbox.beat(ipc.Heartbeat())  # says nothing while there is a queue
        frames, got = ipc.Frames(), []
        sender = threading.Thread(target=outbox.finish, args=(10.0,))
        sender.start()
        while len(got) < count:
            got += [ipc.to_front.decode(body).share for body in frames.feed(ours.recv(1 << 16))]
        sender.join()
        assert got == [float(number) for number in range(count)]
        assert outbox.flush()
        outbox.beat(ipc.Heartbeat())
        assert [ipc.to_front.decode(body) for body in frames.feed(ours.recv(100))] == [ipc.Heartbeat()]


def test_a_reader_that_never_reads_costs_the_farewell_time_only():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = ipc.Outbox(theirs)
        outbox.send(ipc.Progress(0.0, "x" * (1 << 22)))
        outbox.finish(0.1)
        assert not outbox.flush()


def test_a_reader_that_left_is_no_error():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        outbox = ipc.Outbox(theirs)
        outbox.send(ipc.Heartbeat())
        assert outbox.flush()
