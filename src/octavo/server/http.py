"""The HTTP/1.1 connection: uvicorn's, with limits on what a client may make it hold.

Invariant: a head is at most HEAD_BYTES and HEAD_SECONDS long; a client that does not read is let go of; what the server
refuses by itself, below the application, has the OpenAI API's error body too. Does not know of routes or of the engine.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octavo.protocol.errors import error_body

HEAD_BYTES = 2**16  # of request line and headers
HEAD_SECONDS = 30.0  # for them to come, from the connection on or from their first byte
REFUSED_SECONDS = 1.0  # for a client beyond the limit of connections to ask anything
LINGER_SECONDS = 10.0  # for a client to read the last answer, or to finish a body that was refused

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Settings(uvicorn.Config):
    """uvicorn's settings, and how many clients may be connected; None: any number."""

    max_connections: int | None = None


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or be ready to refuse it."""
        super().connection_made(transport)
        self._lost = False
        limit = self.config.max_connections if isinstance(self.config, Settings) else None
        self._refused = limit is not None and len(self.connections) > limit
        if self._refused:
            self.connections.discard(self)
        self._head_bytes: int | None = None  # of the head that is coming; None: no head is coming
        self._body_coming = False
        self._timer: asyncio.TimerHandle | None = None
        self._arm(REFUSED_SECONDS if self._refused else HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._lost = True
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within limits."""
        if self._refused:
            self._late()
            return
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"the headers are longer than {HEAD_BYTES} bytes")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_bytes = 0
        self.scope["extensions"] = {"octavo.reset": {"call": self.reset}, "octavo.write": {"call": self.write}}
        self._arm(HEAD_SECONDS, self._late)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._head_bytes = None
        self._body_coming = True
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is complete."""
        self._body_coming = False
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written; its request's body may still be coming if it was refused."""
        super().on_response_complete()
        if self._body_coming:
            self._arm(LINGER_SECONDS, self.reset)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, without waiting for ever for a client that does not read."""
        super().timeout_keep_alive_handler()
        self._arm(LINGER_SECONDS, self.reset)

    def write(self, part: bytes) -> bool:
        """Send a part of a chunked body that has begun and not ended, at once; False: no room, so nothing is sent."""
        if self.flow.write_paused:
            return False
        if not self._lost and not self.transport.is_closing():  # else nobody is there to read
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True

    def reset(self) -> None:
        """Break off (RST): what the client has must not look like the whole, and nothing waits for it to be read."""
        if self._lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError, ValueError):  # closed already, and not yet lost
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        if self._refused:
            self._refuse(503, "too many connections; try again later")
        else:
            self._refuse(408, f"the headers were not complete after {HEAD_SECONDS:g} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; in the middle of an answer there is no place for another."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.reset()
            return
        body = error_body(status, message)
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _arm(self, seconds: float, call: Any) -> None:
        self._disarm()
        if not self._lost:
            self._timer = self.loop.call_later(seconds, call)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
