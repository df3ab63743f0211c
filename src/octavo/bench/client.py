"""Connections of the load client: HTTP/1.1 over raw sockets, one request in flight on each, kept for the next one.

Light, because it shares the machine with the server: uvloop, httptools, requests encoded before they are due, and
nothing decoded of a chunk but what is counted. Invariant: `ask` always returns; refusals, resets and timeouts are the
answer's `error`. A connection that has been idle is not trusted for long: a server may just be closing it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from octavo.bench.stream import Answer, Events, refusal
from octavo.core.errors import InvalidValue, UserError

IDLE_SECONDS = 2.0  # uvicorn, which serves vLLM too, closes after 5
BODY_BYTES = 2**20  # kept of an answer that is no stream
LOOK_SECONDS = 10.0  # for what is asked before the load


class Target:
    """A server: where it is, and the requests it gets. Raises InvalidValue for a URL that is none."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InvalidValue("url", url, "such as http://127.0.0.1:8000")
        if not timeout > 0:
            raise InvalidValue("timeout", timeout, "above 0")
        self.url = url
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.timeout = timeout
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> bytes:
        """The bytes of a GET request."""
        return self._head("GET", path, {})

    def post(self, path: str, body: bytes) -> bytes:
        """The bytes of a JSON request."""
        return self._head("POST", path, {"Content-Type": "application/json", "Content-Length": str(len(body))}) + body

    def _head(self, method: str, path: str, more: dict[str, str]) -> bytes:
        lines = [f"{method} {self._path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (self._headers | more).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Connection(asyncio.Protocol):
    """One connection. httptools calls the methods that begin with on_."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None
        self._now = 0.0
        self.idle_since = 0.0
        self.open = False
        self._begin(Answer())

    def _begin(self, answer: Answer) -> None:
        self.answer = answer
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._events: Events | None = None
        self._stream = False

    async def ask(self, request: bytes, answer: Answer, timeout: float) -> None:
        """Send a request, and fill `answer` with what comes until it ends. `open` says if there may be another."""
        assert self._transport is not None
        self._begin(answer)
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        limit = loop.call_later(timeout, self._end, f"no whole answer within {timeout:g} s")
        try:
            self._transport.write(request)
            await self._ended
        finally:
            limit.cancel()
            if not self._ended.done() or self._ended.cancelled():
                self.close()
        if self._events is not None:
            self._events.end()
        self.open = self.open and answer.error is None and self._parser.should_keep_alive()
        self.idle_since = time.perf_counter()
        if not self.open:
            self.close()

    @property
    def streamed(self) -> bool:
        """Whether the answer was a stream of events."""
        return self._events is not None

    def close(self) -> None:
        """At once."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its ancestors
        self.open = True

    def data_received(self, data: bytes) -> None:
        """What came in one read has one time."""
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over; what was whole before counts."""
        self.open = False
        whole = self._events is not None and self._events.whole
        self._end(None if whole else f"connection lost: {exc or 'closed by the server'}")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look for the one that says that the body is a stream."""
        if name.lower() == b"content-type":
            self._stream = value.lower().startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        """Decide how the body is read."""
        self.answer.status = self._parser.get_status_code()
        if self._stream and self.answer.status == 200:
            self._events = Events(self.answer)

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._events is not None:
            self._events.feed(data, self._now)
        elif len(self.body) < BODY_BYTES:
            self.body += data

    def on_message_complete(self) -> None:
        """The response is whole."""
        self._end(None)

    def _end(self, error: str | None) -> None:
        if self._ended is not None and not self._ended.done():
            if error is not None:
                self.answer.fail(error)
            self._ended.set_result(None)


class Pool:
    """Connections to one server, as many as are in flight at once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[Connection] = []

    async def stream(self, request: bytes, answer: Answer) -> None:
        """One request whose answer is a stream; its times and its error, if any, go into `answer`."""
        answer.sent = time.perf_counter()
        connection = await self._send(request, answer, self.target.timeout)
        if connection is not None and not connection.streamed and answer.error is None:
            answer.fail(refusal(answer.status, connection.body) if answer.status != 200 else "not a stream of events")
            connection.close()
        elif connection is not None and connection.open:
            self._idle.append(connection)

    async def read(self, path: str) -> bytes:
        """The body of a GET. Raises UserError, naming the URL, where it fails."""
        answer = Answer()
        connection = await self._send(self.target.get(path), answer, min(LOOK_SECONDS, self.target.timeout))
        if connection is None or answer.error or answer.status != 200:
            body = connection.body if connection is not None else b""
            said = answer.error or refusal(answer.status, body)
            raise UserError(f"{self.target.url}{path} does not answer: {said}", "url")
        connection.close()
        return connection.body

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def _send(self, request: bytes, answer: Answer, timeout: float) -> Connection | None:
        """Ask on a connection that is idle or new; None where none could be made."""
        try:
            connection = self._taken() or await self._connected(timeout)
        except (OSError, asyncio.TimeoutError) as error:
            answer.fail(f"no connection: {error or 'timeout'}")
            return None
        await connection.ask(request, answer, timeout)
        return connection

    def _taken(self) -> Connection | None:
        """The connection that became idle last, if it can still be trusted."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open and time.perf_counter() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connected(self, timeout: float) -> Connection:
        loop, target = asyncio.get_running_loop(), self.target
        made = loop.create_connection(Connection, target.host, target.port, ssl=target.tls)
        _, connection = await asyncio.wait_for(made, timeout)
        return connection


async def model_of(pool: Pool) -> str:
    """The first model that the server lists. Raises UserError."""
    body = await pool.read("/v1/models")
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{pool.target.url}/v1/models lists no model; --model says its name", "url") from None


def body_of(endpoint: str, model: str, prompt: str | list[int], more: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a streamed request to /v1/completions, or to /v1/chat/completions with the prompt as a message."""
    told: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if endpoint.endswith("/chat/completions"):
        told["messages"] = [{"role": "user", "content": prompt}]
    else:
        told["prompt"] = prompt
    return told | more
