"""What the engine says of itself: to the front, to `/ready`, to the block printed at start."""

from __future__ import annotations

import msgspec

from octavo.core.plan import StepStats


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a loaded engine, fixed for its life.

    A token takes a place in `groups` pages (core/layout.py), a sequence of max_len tokens at most `sequence_pages`.
    `memory` is the plan in bytes by category: "weights", "kv_cache", "workspace", "slots", "interpreter"; what is
    really taken is in `StepStats`. `load_seconds` runs from the engine's start to its readiness.
    """

    model: str
    max_len: int
    vocab: int
    eos_ids: list[int]
    bos_id: int | None = None
    pages: int = 0
    page: int = 32
    groups: int = 1
    sequence_pages: int = 0
    kv_dtype: str = "bfloat16"
    executor: str = "cpu"
    isa: str = ""
    threads: int = 1
    load_seconds: float = 0.0
    memory: dict[str, int] = {}


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the engine. state: "loading", "ready", "restarting", "draining" or "dead".

    `progress` runs from 0 to 1 while loading; `detail` says in words what happens or why it died. `heartbeat_age` is
    the seconds since the engine last gave a sign of life.
    """

    state: str
    progress: float = 0.0
    detail: str = ""
    info: EngineInfo | None = None
    stats: StepStats = StepStats()
    heartbeat_age: float = 0.0
    restarts: int = 0
