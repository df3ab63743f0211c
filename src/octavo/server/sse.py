"""Streamed answers: server-sent events over one connection, and noticing that nobody listens.

Invariant: a stream ends in exactly one of four ways: complete with `[DONE]`; an error event (`data: {"error": ...}`)
after which nothing comes; the client is gone; or the client does not read, and its connection is reset. In each the
source is closed before the response returns, so the sequence behind it is given up at once. At most `backlog_bytes`
wait for a slow reader, besides the buffers of the transport and the kernel.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.core.errors import OctavoError
from octavo.protocol.errors import body_of

T = TypeVar("T")
logger = logging.getLogger("octavo.server")

DONE = b"data: [DONE]\n\n"
WRITE_BYTES = 2**16  # of one write, if there is so much


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


class EventStream(Response):
    """Sends what `source` gives to its argument, each a chunk of JSON, as events; then `[DONE]`.

    Opened first, so that what fails before the first chunk is raised and has its status. Where there is room, a chunk
    goes to the transport at once, past the application's layers (the connection's "octavo.write"), and wakes nobody but
    its source; otherwise it waits, and those that wait are written together.
    """

    media_type = "text/event-stream"

    def __init__(
        self, source: Callable[[Callable[[bytes], None]], Awaitable[None]], *, stall_seconds: float, backlog_bytes: int
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._stall_seconds = stall_seconds
        self._backlog_bytes = backlog_bytes
        self._waiting: deque[bytes] = deque()  # frames not yet given to the transport
        self._waiting_bytes = 0
        self._refused: Exception | None = None  # raised before the first chunk
        self._ended = False  # no further frames
        self._wake = asyncio.Event()  # something waits, or it has ended
        self._direct: Callable[[bytes], bool] | None = None  # while nothing waits; False: there is no room
        loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = loop.create_future()  # there is a first chunk, or a refusal
        self._unread: asyncio.Future[None] = loop.create_future()  # too much waits, or for too long

    async def open(self, receive: Receive) -> None:
        """Return with the first chunk, or raise what the source raises before it. Raises ClientGone."""
        self._watch = asyncio.ensure_future(gone(receive))
        self._pumping = asyncio.ensure_future(self._pump())
        try:
            await asyncio.wait((self._begun, self._watch), return_when=asyncio.FIRST_COMPLETED)
            if self._refused is not None:
                raise self._refused
            if not self._begun.done():
                raise ClientGone
        except BaseException:
            await _end(self._pumping, self._watch)
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the response, which is open, to one of its ends."""
        direct = scope.get("extensions", {}).get("octavo.write")
        write = asyncio.ensure_future(self._write(send, None if direct is None else direct["call"]))
        try:
            await asyncio.wait((write, self._watch, self._unread), return_when=asyncio.FIRST_COMPLETED)
            if write.done() and not write.cancelled() and write.exception() is not None:
                logger.error("a stream could not be written", exc_info=write.exception())
            if not write.done() and not self._watch.done():
                await _reset(scope, self._watch)
        finally:
            await _end(self._pumping, write, self._watch)

    async def _pump(self) -> None:
        """Run the source. What is raised before the first chunk is kept for `open`; later it is an error event."""
        try:
            await self._source(self._put)
            self._give(DONE)
        except Exception as error:
            if self._begun.done():
                if not isinstance(error, OctavoError):
                    logger.exception("a stream failed")
                self._put(body_of(error)[1])
            else:
                self._refused = error
                self._begun.set_result(None)
        self._ended = True
        self._wake.set()

    def _put(self, chunk: bytes) -> None:
        """Send a chunk."""
        self._give(b"data: %b\n\n" % chunk)

    def _give(self, frame: bytes) -> None:
        """Give a frame to the transport, or have it wait."""
        if not self._begun.done():
            self._begun.set_result(None)
        if self._direct is not None:
            if self._direct(frame):
                return
            self._direct = None
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        self._wake.set()
        if self._waiting_bytes > self._backlog_bytes:
            self._pumping.cancel()
            self._give_up()

    def _give_up(self) -> None:
        """The client does not read."""
        if not self._unread.done():
            self._unread.set_result(None)

    async def _write(self, send: Send, direct: Callable[[bytes], bool] | None) -> None:
        """Give what waits to the transport, which answers when it has room; then let frames pass directly."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            chunk = self._next()
            ended = self._ended and not self._waiting
            if chunk or ended:
                stall = asyncio.get_running_loop().call_later(self._stall_seconds, self._give_up)
                try:
                    await send({"type": "http.response.body", "body": chunk, "more_body": not ended})
                finally:
                    stall.cancel()
                self._waiting_bytes -= len(chunk)
            if ended:
                return
            if not self._waiting:
                self._wake.clear()
                if self._ended:
                    continue
                self._direct = direct
                await self._wake.wait()

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
