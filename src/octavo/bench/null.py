"""An engine whose model costs nothing: what is left is scheduling, gathering, answering. For measuring just that.

Everything is the product's but the executor, which draws tokens from a hash of slot and position, no sooner than
`step_seconds` after its last step. Knows no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from octavo.cache.pool import BlockPool
from octavo.checkpoint.source import open_source
from octavo.core.layout import pages_for
from octavo.core.status import EngineInfo
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.launch import Progress
from octavo.models.registry import read_spec
from octavo.program.batch import Batch, Drawn
from octavo.sched.scheduler import Scheduler
from octavo.worker.worker import Worker

MAX_LEN = 4096
LOWEST = 300  # below it are bytes and marks; above, the usual vocabulary has whole pieces of words


class Null:
    """An executor without a model, over `vocab` tokens."""

    def __init__(self, vocab: int, step_seconds: float = 0.0) -> None:
        self._vocab = vocab
        self._step_seconds = step_seconds
        self._next = 0.0

    def allocate(self, pages: int) -> None:
        """Nothing is kept."""

    def copy(self, pages: Sequence[tuple[int, int]]) -> None:
        """Nothing is kept."""

    def run(self, batch: Batch) -> Drawn:
        """Draw, when it is time."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self._step_seconds
        rows = len(batch.head.rows)
        mixed = batch.head.position * 7919 + batch.slots[-1] * 31 + np.arange(rows)
        lowest = min(LOWEST, self._vocab // 2)
        return Drawn(
            tokens=(lowest + mixed % (self._vocab - lowest)).astype(np.int32),
            logprobs=np.zeros(rows, np.float32),
            ranks=np.zeros(rows, np.int32),
            top_ids=np.zeros((rows, 0), np.int32),
            top_logprobs=np.zeros((rows, 0), np.float32),
            bad=np.zeros(rows, np.uint8),
            surprise=np.zeros(rows, np.float32),
        )

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """All alike."""
        return np.zeros((len(batch.head.rows), self._vocab), np.float32)

    def vectors(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Vectors of one number, which is 0."""
        return np.zeros((len(batch.head.rows), 1), np.float32)

    def workspace_bytes(self) -> int:
        """None."""
        return 0

    def close(self) -> None:
        """Nothing to release."""


def parts(
    launch: LaunchConfig, step_seconds: float = 0.0, max_len: int = MAX_LEN
) -> tuple[Scheduler, Worker, EngineInfo]:
    """Scheduler and worker for the vocabulary of `launch`'s model, with pages for all its sequences."""
    with open_source(Path(launch.model)) as source:
        spec = read_spec(source)
    config = replace(launch.scheduler, max_len=max_len)
    pages = config.max_seqs * pages_for(max_len)
    scheduler = Scheduler(config, BlockPool(pages, launch.cache.prefix_cache))
    worker = Worker(Null(spec.vocab, step_seconds), slots=config.max_seqs, max_len=max_len, vocab=spec.vocab)
    info = EngineInfo(
        model=launch.name,
        max_len=max_len,
        vocab=spec.vocab,
        eos_ids=list(spec.eos_ids),
        pages=pages,
        sequence_pages=pages_for(max_len),
        executor="null",
    )
    return scheduler, worker, info


def build(launch: LaunchConfig, progress: Progress, step_seconds: float = 0.0) -> tuple[Engine, EngineInfo]:
    """As `build_engine`, without a model."""
    scheduler, worker, info = parts(launch, step_seconds)
    progress(1.0, "ready")
    return Engine(scheduler, worker, vocab=info.vocab), info
