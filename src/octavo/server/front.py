"""The front's own state: the engine's client, the language, the settings, and who is being served.

Invariant: `inflight` counts the API requests in work, from their first byte to the last of their answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import octavo
from octavo.core.errors import InvalidValue, ModelError, OctavoError, QueueFull, Unavailable, UnknownModel
from octavo.core.status import EngineInfo, Status
from octavo.server.config import ServerConfig
from octavo.server.metrics import Meter
from octavo.server.text import Language

if TYPE_CHECKING:
    from octavo.engine.client import EngineClient

logger = logging.getLogger("octavo.server")


class Front:
    """What the routes work with. `failure` is why engine or language could not start, None while all is well."""

    def __init__(self, client: EngineClient, language: Language, config: ServerConfig) -> None:
        self.client = client
        self.language = language
        self.config = config
        self.meter = Meter(client, self.ready, model=config.names[0], compat=config.metrics_compat)
        self.inflight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self.failure: Exception | None = None
        self.created = int(time.time())
        self.on_ready: Callable[[EngineInfo], None] | None = None
        self.on_failure: Callable[[], None] | None = None

    async def start(self) -> None:
        """Load engine and language at once; ends when both are ready, or one has failed for good."""
        try:
            await asyncio.gather(self.client.start(), self.language.start())
            while (status := self.client.status()).info is None:
                if status.state == "dead":
                    raise ModelError(status.detail)
                await asyncio.sleep(0.05)
        except Exception as error:
            if self.draining:
                return
            self.failure = error
            if self.on_failure is not None:  # who serves raises it
                self.on_failure()
            else:
                logger.error("not serving: %s", error, exc_info=not isinstance(error, OctavoError))
            return
        if self.on_ready is not None:
            self.on_ready(status.info)

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, let what runs finish for so long, then end it. The engine is gone afterwards.

        May be called again meanwhile, with fewer seconds.
        """
        self.draining = True
        deadline = time.monotonic() + seconds
        await self._until_idle(seconds)
        await self.client.stop(max(0.0, deadline - time.monotonic()))
        await self._until_idle(1.0)  # the last words of what was ended
        self.language.close()

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no request is in work, or for so long."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def status(self) -> Status:
        """The engine's status."""
        return self.client.status()

    def ready(self) -> bool:
        """Whether requests are accepted now."""
        return not self.trouble()

    def trouble(self) -> str:
        """Why requests are not accepted now; empty when they are."""
        status = self.status()
        if self.draining:
            return "the server is shutting down"
        if status.state != "ready":
            return f"the engine is {status.state}" + (f": {status.detail}" if status.detail else "")
        if status.heartbeat_age > self.config.heartbeat_seconds:
            return f"the engine has given no sign of life for {status.heartbeat_age:.0f} s"
        if self.language.state != "ready":
            return f"the tokenizer is {self.language.state}"
        return ""

    def accept(self) -> EngineInfo:
        """The engine's facts, where requests are accepted now. Raises Unavailable."""
        info = self.status().info
        trouble = self.trouble()
        if trouble or info is None:
            raise Unavailable(trouble or "the engine is loading")
        return info

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one API request inside. Raises QueueFull."""
        if self.inflight >= self.config.max_requests:
            raise QueueFull(f"{self.inflight} requests are in work; at most {self.config.max_requests} may be")
        self.inflight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.inflight -= 1
            if not self.inflight:
                self._idle.set()

    def check_priority(self, priority: int) -> None:
        """Raise InvalidValue where a request would go before or behind its turn and this server lets none."""
        if priority and not self.config.priorities:
            raise InvalidValue("priority", priority, "only 0: this server schedules first come, first served")

    def model(self, name: str | None) -> str:
        """The name to answer with. Raises UnknownModel."""
        if name is None:
            return self.config.names[0]
        if name not in self.config.names:
            known = ", ".join(self.config.names)
            raise UnknownModel(
                f"the model {name[:100]!r} is not served here; served: {known}", "model", "model_not_found"
            )
        return name

    def fingerprint(self, info: EngineInfo) -> str:
        """Names what determines the tokens: the version, the model, and how it is computed."""
        facts = (octavo.__version__, info.model, info.executor, info.isa, info.kv_dtype)
        return "octavo-" + hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
