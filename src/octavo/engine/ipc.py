"""What front and engine process say to each other: typed messages in frames over a unix socket pair.

A frame is a length (4 bytes, little endian) and a msgpack body; a body decodes to exactly one of the message types or
is an error. No code ever crosses. The socket's end is the message of last resort: either side that sees it knows that
the other is gone. Knows no event loop and no engine.
"""

from __future__ import annotations

import socket
import struct
import threading

import msgspec

from octavo.core.errors import EngineFault
from octavo.core.plan import Output, StepStats
from octavo.core.request import Request
from octavo.core.status import EngineInfo
from octavo.engine.config import LaunchConfig

LENGTH = struct.Struct("<I")
LARGEST_FRAME = 1 << 28  # bytes; far above any request, so a larger length means a broken stream


class Launch(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Front to engine, first: what to start."""

    config: LaunchConfig


class Submit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Front to engine: generate."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Front to engine: end this request, if it has not ended."""

    id: str


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front, while loading: the share done and what is being done."""

    share: float
    what: str


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front: loaded; requests may come."""

    info: EngineInfo


class Outputs(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front, after each step and each abort, and from time to time while there is nothing to do."""

    outputs: list[Output]
    stats: StepStats


class Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front: this request was not accepted. `kind` is the name of the UserError."""

    id: str
    kind: str
    message: str
    field: str | None
    code: str | None


class Heartbeat(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front, while loading: alive, with nothing to tell."""


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Engine to front, last: why it ends. final: starting it again would end the same way."""

    message: str
    final: bool


ToEngine = Launch | Submit | Abort
ToFront = Progress | Ready | Outputs | Refused | Heartbeat | Failed

to_engine = msgspec.msgpack.Decoder(ToEngine)
to_front = msgspec.msgpack.Decoder(ToFront)


def frame(message: ToEngine | ToFront) -> bytes:
    """A message as it goes over the socket. Raises OverflowError for integers of more than 64 bits."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


class Frames:
    """Bytes as they arrive, cut into bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add what arrived; the bodies that are now whole. Raises EngineFault for a length that cannot be."""
        buffer = self._buffer
        buffer += data
        bodies = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, start)
            if size > LARGEST_FRAME:
                raise EngineFault(f"a frame of {size} bytes; the stream between front and engine is broken")
            end = start + LENGTH.size + size
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + LENGTH.size : end]))
            start = end
        del buffer[:start]
        return bodies


class Outbox:
    """The engine's sending side: never blocks on a slow front, keeps what the socket does not take. Thread-safe.

    What can pile up is bounded by the requests the front has sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._pending = bytearray()

    def send(self, message: ToFront) -> None:
        """Send now what the socket takes, and keep the rest."""
        data = frame(message)
        with self._lock:
            self._pending += data
            self._push(socket.MSG_DONTWAIT)

    def beat(self, sign: ToFront) -> None:
        """Send a sign of life, unless there is something to send anyway."""
        if self.flush():
            self.send(sign)

    def flush(self) -> bool:
        """Try again. Whether nothing is left."""
        with self._lock:
            self._push(socket.MSG_DONTWAIT)
            return not self._pending

    def finish(self, seconds: float) -> None:
        """Send the rest, waiting for the front for at most this long."""
        timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        with self._lock:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            self._push(0)

    def _push(self, flags: int) -> None:
        try:
            while self._pending:
                del self._pending[: self._sock.send(self._pending, flags)]
        except BlockingIOError:
            pass
        except OSError:  # the front is gone; the reading side sees it too, and ends the process
            self._pending.clear()
