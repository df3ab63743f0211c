"""One engine process, from its start to its last breath: the socket to it, and its exit code.

Invariant: the process is dead and reaped when `end` returns, and only a process started here is ever killed. The engine
asks the kernel to die with the thread that started it, so a Child must be started from a thread that lives as long as
the engine shall: that of the event loop. Knows no request and no policy of restarting.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from octavo.core.errors import EngineFault
from octavo.engine.config import LaunchConfig
from octavo.engine.ipc import Frames, Launch, ToEngine, ToFront, frame, to_front

TICK_SECONDS = 0.02  # between looks at a process that is ending
EXIT_SECONDS = 2.0  # for the process to end by itself once the socket is closed
# The child imports from where we import, and not from the folder it happens to be started in.
CODE = (
    "import sys; fd, parent, *sys.path = sys.argv[1:]; "
    "from octavo.engine.process import main; main(int(fd), int(parent))"
)

Receive = Callable[["Child", ToFront], None]


class Child(asyncio.Protocol):
    """Made by `adopt`. `gone` is set once nothing more will be received; `reason` says why, where that is known."""

    def __init__(self, process: subprocess.Popen[bytes], receive: Receive) -> None:
        self._process = process
        self._receive = receive
        self._frames = Frames()
        self._transport: asyncio.WriteTransport | None = None
        self.gone = asyncio.Event()
        self.ready = False  # set by the receiver
        self.reason = ""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        """Buffered; nothing happens where the process is gone. Raises OverflowError for integers above 64 bits."""
        data = frame(message)
        if self._transport is not None and not self.gone.is_set():
            self._transport.write(data)

    async def end(self, *, kill: bool = False) -> str:
        """Have the process end, by force where it does not leave by itself or `kill` says so. Returns why it ended."""
        if self._transport is not None:
            self._transport.abort()
        deadline = time.monotonic() + (0 if kill else EXIT_SECONDS)
        while (code := self._process.poll()) is None:
            if time.monotonic() >= deadline:
                self._process.kill()
            await asyncio.sleep(TICK_SECONDS)
        return self.reason or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is in the loop's hands."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports do not derive from it

    def data_received(self, data: bytes) -> None:
        """Hand on each message that is whole. One that is none ends the connection, and so the process."""
        try:
            for body in self._frames.feed(data):
                self._receive(self, to_front.decode(body))
        except (ValueError, EngineFault) as error:  # msgspec's errors are ValueErrors
            self.reason = f"what the engine said is not understood: {error}"
            self.gone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process closed its end, or died."""
        self.gone.set()


@dataclass(frozen=True, slots=True)
class Begun:
    """An engine process that loads, and our end of the socket to it, which no event loop has yet."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


def begin(launch: LaunchConfig, code: str = CODE) -> Begun:
    """Start an engine process and tell it what to load. It ends when its `sock` is closed. Raises OSError.

    code: what the process runs, given the socket's descriptor, our process id and the path to import from.
    """
    ours, theirs = socket.socketpair()
    try:
        process = _start(theirs, code)
        ours.sendall(frame(Launch(launch)))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Begun(process, ours)


async def adopt(begun: Begun, receive: Receive) -> Child:
    """Put the process in the hands of this event loop; `receive` gets its messages."""
    child = Child(begun.process, receive)
    try:
        begun.sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: child, sock=begun.sock)
    except BaseException:
        begun.sock.close()
        await child.end(kill=True)
        raise
    return child


def _start(end: socket.socket, code: str) -> subprocess.Popen[bytes]:
    """A process that serves the other end of this one."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(end.fileno()), str(os.getpid()), *sys.path],
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what is printed there answers nobody
        start_new_session=True,  # Ctrl-C in the terminal is the front's alone
    )
