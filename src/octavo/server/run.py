"""Serving until told to stop: the socket, the event loop, signals.

Invariant: the socket is bound before anything is loaded, so a taken port is known at once and status is answered from
the first moment; SIGTERM and SIGINT drain first (a second one ends what runs); no child is left behind.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from octavo.core.status import EngineInfo
from octavo.server.address import bind
from octavo.server.app import create_app
from octavo.server.config import ServerConfig
from octavo.server.front import Front
from octavo.server.http import Connection, Settings
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from octavo.engine.client import EngineClient

BACKLOG = 2048  # connections that may wait to be accepted
CONNECTIONS = 8192  # clients that may be connected, where the limit on open files allows
SPARE_FILES = 64  # descriptors that are not for connections


def serve(
    client: EngineClient,
    load: Callable[[], Tokenizer | None],
    config: ServerConfig,
    *,
    sock: socket.socket | None = None,
    on_ready: Callable[[EngineInfo], None] | None = None,
) -> None:
    """Serve until a signal. `sock` from `bind`; `on_ready` is called once, when requests are accepted first.

    Raises InvalidValue where the address is taken, and what kept engine or tokenizer from starting.
    """
    sock = sock if sock is not None else bind(config)
    app = create_app(client, load, config)
    front: Front = app.state.front
    server = Server(settings(app, connections()), front, config.drain_seconds)
    front.on_ready = on_ready
    front.on_failure = server.leave
    server.run(sockets=[sock])
    if front.failure is not None:
        raise front.failure


def connections() -> int:
    """How many clients may be connected: what the limit on open files leaves, once it is as high as we may set it."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if soft != resource.RLIM_INFINITY and soft < files:  # 1024 where nobody set it
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return max(8, files - SPARE_FILES)


def settings(app: Callable[..., object], max_connections: int) -> Settings:
    """uvicorn's settings."""
    made = Settings(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # what clients send wrong is answered, and counted, but no line of the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )
    made.max_connections = max_connections
    return made


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops accepting, so that status is answered meanwhile."""

    def __init__(self, config: uvicorn.Config, front: Front, drain_seconds: float) -> None:
        super().__init__(config)
        self._front = front
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._draining: list[asyncio.Task[None]] = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run on this loop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends what still runs, a third leaves it as it is."""
        self._signals += 1
        if self._signals > 2:
            self.should_exit = self.force_exit = True
        else:
            self.end(hurry=self._signals == 2)

    def end(self, *, hurry: bool = False) -> None:
        """Drain, or with `hurry` end what runs with an error, then leave. For any thread, and for signal handlers."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain, 0.0 if hurry else self._drain_seconds)

    def _drain(self, seconds: float) -> None:
        self._draining.append(asyncio.ensure_future(self._drained(seconds)))

    async def _drained(self, seconds: float) -> None:
        try:
            await self._front.drain(seconds)
        finally:
            self.should_exit = True

    def leave(self) -> None:
        """End now; nothing is in work."""
        self.should_exit = True
