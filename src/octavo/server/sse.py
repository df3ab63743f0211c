"""Streamed answers: server-sent events over one connection, and noticing that nobody listens.

Invariant: a stream ends in exactly one of four ways: complete with `[DONE]`; an error event (`data: {"error": ...}`)
after which nothing comes; the client is gone; or the client does not read, and its connection is reset. In each the
source is closed before the response returns, so the sequence behind it is given up at once. At most `backlog_bytes`
wait for a slow reader, besides the buffers of the transport and the kernel.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.core.errors import OctavoError
from octavo.protocol.errors import body_of

T = TypeVar("T")
logger = logging.getLogger("octavo.server")

DONE = b"data: [DONE]\n\n"
WRITE_BYTES = 2**16  # of one write, if there is so much
LOOK_SECONDS = 0.25  # at most this long between looks at a stalled write


class ClientGone(Exception):
    """The client closed the connection, or half of it."""


async def gone(receive: Receive) -> None:
    """Returns when the client has gone. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`; raises ClientGone, with the work cancelled, where the client goes first."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _end(task, watch)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def events(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Frames of JSON chunks. What is raised before the first chunk is raised; afterwards it is an error event."""
    started = False
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                started = True
                yield b"data: " + chunk + b"\n\n"
        yield DONE
    except Exception as error:
        if not started:
            raise
        if not isinstance(error, OctavoError):
            logger.exception("a stream failed")
        yield b"data: " + body_of(error)[1] + b"\n\n"


class EventStream(Response):
    """Sends `first`, then the other frames; those that wait are written together."""

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, frames: AsyncGenerator[bytes, None], *, stall_seconds: float, backlog_bytes: int
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._stall_seconds = stall_seconds
        self._backlog_bytes = backlog_bytes
        self._waiting = deque([first])  # frames not yet given to the transport
        self._waiting_bytes = len(first)
        self._ended = False  # no further frames
        self._full = asyncio.Event()  # too much waits
        self._wake = asyncio.Event()
        self._wake.set()
        self._writing_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response to one of its ends."""
        pump, write = asyncio.ensure_future(self._pump()), asyncio.ensure_future(self._write(send))
        watch, full = asyncio.ensure_future(gone(receive)), asyncio.ensure_future(self._full.wait())
        try:
            while not (write.done() or watch.done() or full.done() or self._stalled()):
                await asyncio.wait((write, watch, full), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if write.done() and not write.cancelled() and write.exception() is not None:
                logger.error("a stream could not be written", exc_info=write.exception())
            if not write.done() and not watch.done():
                await _reset(scope, watch)
        finally:
            await _end(pump, write, watch, full)
            await self._frames.aclose()

    def _stalled(self) -> bool:
        """Whether the client has not read for too long."""
        since = self._writing_since
        return since is not None and time.monotonic() - since > self._stall_seconds

    async def _pump(self) -> None:
        """Take frames as they come; stop when nobody reads them."""
        try:
            async for frame in self._frames:
                self._waiting.append(frame)
                self._waiting_bytes += len(frame)
                self._wake.set()
                if self._waiting_bytes > self._backlog_bytes:
                    self._full.set()
                    return
        finally:
            self._ended = True
            self._wake.set()

    async def _write(self, send: Send) -> None:
        """Give what waits to the transport, which answers when it has room."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            await self._wake.wait()
            self._wake.clear()
            chunk = self._next()
            ended = self._ended and not self._waiting
            self._writing_since = time.monotonic()
            await send({"type": "http.response.body", "body": chunk, "more_body": not ended})
            self._writing_since = None
            self._waiting_bytes -= len(chunk)
            if ended:
                return
            if self._waiting:
                self._wake.set()

    def _next(self) -> bytes:
        """The next write: what waits, up to about WRITE_BYTES, so that a slow reader's progress shows."""
        frames: list[bytes] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            frames.append(self._waiting.popleft())
            size += len(frames[-1])
        return b"".join(frames)


async def _reset(scope: Scope, watch: asyncio.Future[None]) -> None:
    """Break the connection of a client that does not read: closing it in peace would wait for the client."""
    reset = scope.get("extensions", {}).get("octavo.reset")
    if reset is not None:
        reset["call"]()
        await asyncio.wait((watch,), timeout=1)  # so that the server has noticed before the response returns
