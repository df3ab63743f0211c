"""Streams of several servers, cut at every byte: the same answer always."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.bench.stream import Answer, Events, refusal


def frame(body: object) -> bytes:
    """One event."""
    return b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"


def text(said: str | None, finish: str | None = None, **more: object) -> bytes:
    """A chunk of a completion."""
    return frame(
        {"id": "x", "choices": [{"index": 0, "text": said, "finish_reason": finish, "logprobs": None}], **more}
    )


def delta(said: dict, finish: str | None = None, **more: object) -> bytes:
    """A chunk of a chat."""
    return frame({"id": "x", "choices": [{"index": 0, "delta": said, "finish_reason": finish}], **more})


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 3}}
DONE = frame(b"[DONE]")
STREAMS = {  # what is sent: chunks with choices, output tokens, who counted
    "octavo": ([text("a"), text(""), text("b"), text("c", "length"), frame({"choices": [], "usage": USAGE}), DONE], 4),
    "vllm chat": (
        [delta({"role": "assistant", "content": ""}), delta({"content": "a"}), delta({"content": "b"}),
         delta({"content": ""}, "stop", usage=None), frame({"choices": [], "usage": USAGE}), DONE], 3),
    "llama.cpp chat": (
        [delta({"role": "assistant", "content": None}), delta({"content": "a"}), delta({}, "length"),
         frame({"choices": [], "usage": {"completion_tokens": 4, "prompt_tokens": 9}, "timings": {}}), DONE], 2),
    "usage in each chunk": ([text("a", usage=USAGE), text("é😀", "stop", usage=USAGE), DONE], 2),
    "reasoning": ([delta({"reasoning_content": "hm"}), delta({"content": "a"}, "stop", usage=USAGE), DONE], 2),
}  # fmt: skip


def heard(data: bytes, cuts: list[int]) -> tuple[Answer, bytes]:
    """What becomes of a stream cut at these places, a second between them."""
    answer = Answer(sent=0.0)
    events = Events(answer)
    edges = [0, *cuts, len(data)]
    for now, (begin, end) in enumerate(pairwise(edges), 1):
        events.feed(data[begin:end], float(now))
    events.end()
    return answer, data


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_at_every_byte_is_the_same_answer(name):
    parts, chunks = STREAMS[name]
    data = b"".join(parts)
    for ends in (data, data.replace(b"\n", b"\r\n"), b": a comment\n\n" + data.replace(b"data: ", b"data:")):
        for cut in range(len(ends)):
            answer, _ = heard(ends, [cut])
            assert answer.error is None
            assert len(answer.gaps) == chunks - 1
            assert (answer.output_tokens, answer.prompt_tokens, answer.counted) == (4, 9, "usage")
        answer, _ = heard(ends, list(range(1, len(ends))))
        assert answer.error is None and len(answer.gaps) == chunks - 1 and answer.finish in ("length", "stop")
        assert answer.last - answer.first == pytest.approx(sum(answer.gaps))


def test_times_are_those_of_the_chunks_with_choices():
    answer, events = Answer(), None
    events = Events(answer)
    parts = [delta({"role": "assistant", "content": ""}), delta({"content": "a"}), delta({"content": "b"}), DONE]
    for now, part in zip((1.0, 3.0, 4.5, 9.0), parts, strict=True):
        events.feed(part, now)
    events.end()
    assert (answer.first, answer.last, answer.gaps) == (3.0, 4.5, [1.5])


def test_without_usage_chunks_with_text_are_counted():
    answer, _ = heard(b"".join([text("a"), text(""), text("b"), text("", "length"), DONE]), [])
    assert (answer.output_tokens, answer.counted, answer.error) == (2, "chunks", None)


def test_what_is_not_whole_is_an_error():
    for parts, said in [
        ([], "no choices"),
        ([DONE], "no choices"),
        ([frame({"choices": [], "usage": USAGE}), DONE], "no choices"),
        ([text("a"), text("b")], "ended before"),
        ([text("a"), frame({"error": {"message": "the engine died", "code": 500}})], "the engine died"),
        ([frame({"error": "plain words"})], "plain words"),
        ([text("a"), b'error: {"code": 500, "message": "slot lost"}\n\n'], "slot lost"),
        ([text("a"), frame(b"{nonsense"), DONE], "a chunk that is not one"),
        ([text("a"), frame(b'{"choices": 3}'), DONE], "a chunk that is not one"),
        ([text("a"), frame(b"\xff\xfe"), DONE], "a chunk that is not one"),
    ]:
        answer, _ = heard(b"".join(parts), [])
        assert answer.error is not None and said in answer.error, parts
    whole, _ = heard(text("a") + text("", "stop"), [])
    assert whole.error is None, "a server that ends without [DONE]"


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_end_in_a_judgement(data, cut):
    answer, _ = heard(b"data: " + data + b"\n" + data, [min(cut, len(data))])
    assert answer.error is not None or answer.first


def test_refusals_are_one_short_line():
    assert refusal(429, b'{"error": {"message": "too many\\nwait", "type": "x"}}').startswith("HTTP 429: too many")
    assert refusal(503, b"<html>\nbusy</html>") == "HTTP 503: <html>\nbusy</html>"
    assert refusal(422, b'{"detail": [{"loc": 1}]}') == "HTTP 422: [{'loc': 1}]"
    answer = Answer()
    answer.fail("a\n" * 500)
    answer.fail("later")
    assert len(answer.error) <= 160 and "\n" not in answer.error and "later" not in answer.error
