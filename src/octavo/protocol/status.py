"""/live, /ready and /version: the shapes."""

from __future__ import annotations

import msgspec


class Live(msgspec.Struct):
    """The process answers."""

    status: str = "live"


class Readiness(msgspec.Struct):
    """Whether requests are accepted now, and how far loading is.

    status: ready, loading, restarting, stalled, draining, failed or dead. progress: the share that is loaded.
    """

    status: str
    detail: str
    progress: float
    tokenizer: str
    heartbeat_age_seconds: float
    restarts: int


class Version(msgspec.Struct):
    """Our version."""

    version: str
