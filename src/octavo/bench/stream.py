"""A streamed answer, read as it comes: when its chunks came, how many tokens they held, and how it ended.

An answer is good if it had at least one chunk with choices and ended by `[DONE]`, or by a finish reason and the end of
the response. Invariant: whatever the bytes and however they are cut, reading ends in a good answer or in one with an
`error`; nothing is raised. Chunks that arrive in one read have one time. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

SHOWN = 160  # most characters of an error


@dataclass(slots=True)
class Answer:
    """What became of one request. Times in seconds on the client's clock.

    `arrived`: when it was due; `sent`: when its connection was taken or opened, behind the wait for a place among
    --max-concurrency; `first`, `last`: first and last chunk with choices. `gaps`: between those chunks. `counted`:
    who told the tokens, the server's usage or the number of chunks with text. `error` None: all is well.
    """

    arrived: float = 0.0
    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    counted: str = "chunks"
    finish: str | None = None
    status: int = 0
    error: str | None = None

    def fail(self, error: str) -> None:
        """Note what went wrong, the first time."""
        if self.error is None:
            self.error = " ".join(error.split())[:SHOWN]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: msgspec.Raw | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it brings something to read."""
        said = self.delta
        return bool(self.text or (said and (said.content or said.reasoning_content or said.reasoning)))

    @property
    def names_the_role_only(self) -> bool:
        """The chunk that some servers of a chat send before there is a token."""
        return self.delta is not None and not self.holds and not self.finish_reason and self.delta.tool_calls is None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class Events:
    """Reads the server-sent events of one response into `answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""
        self._texts = 0
        self._done = False

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that came at `now`, cut anywhere."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)
            elif line.startswith(b"error:"):  # llama-server's, before 2025-10
                self._answer.fail(f"error event: {_message(line[6:].strip())}")

    def end(self) -> None:
        """The response is over, in peace or not: judge it."""
        answer = self._answer
        if self._rest.startswith(b"data:"):  # without a line's end
            self._event(self._rest[5:].strip(), answer.last)
        if not answer.first:
            answer.fail("the stream held no choices")
        elif not self._done and answer.finish is None:
            answer.fail("the stream ended before the answer did")
        if answer.counted == "chunks":
            answer.output_tokens = self._texts

    @property
    def whole(self) -> bool:
        """Whether the answer is there, whatever becomes of the connection."""
        return self._done

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        try:
            chunk = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            self._answer.fail(f"a chunk that is not one: {error}")
            return
        if chunk.error:
            self._answer.fail(f"error event: {_message(data)}")
        if chunk.usage is not None:
            self._count(chunk.usage)
        if chunk.choices:
            self._choice(chunk.choices[0], now)

    def _choice(self, choice: _Choice, now: float) -> None:
        answer = self._answer
        if choice.names_the_role_only and not answer.first:
            return
        if answer.first:
            answer.gaps.append(now - answer.last)
        else:
            answer.first = now
        answer.last = now
        answer.finish = choice.finish_reason or answer.finish
        self._texts += choice.holds

    def _count(self, usage: _Usage) -> None:
        answer = self._answer
        if usage.completion_tokens is not None:
            answer.output_tokens, answer.counted = usage.completion_tokens, "usage"
        answer.prompt_tokens = usage.prompt_tokens or answer.prompt_tokens
        if usage.prompt_tokens_details is not None:
            answer.cached_tokens = usage.prompt_tokens_details.cached_tokens or 0


def _message(body: bytes) -> str:
    """What an error's body says: its message, or its text."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return found if isinstance(found, str) else str(found)


def refusal(status: int, body: bytes) -> str:
    """An answer that is no stream, in a line."""
    return f"HTTP {status}: {_message(body)}"
