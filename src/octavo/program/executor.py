"""What every executor does: hold the pages, run one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from octavo.program.batch import Batch, Drawn


class Executor(Protocol):
    """Runs a program. Made from a Program; not thread-safe: one caller at a time."""

    def allocate(self, pages: int) -> None:
        """Take memory for this many pages and touch it. Raises MemoryError. Called once, before `run`."""

    def copy(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copy the content of pages (from, to), in all layers; all are read before any is written."""

    def run(self, batch: Batch) -> Drawn:
        """Compute one step: write keys and values to their pages, draw from the rows of `batch.head`."""

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, but give the raw logits of the head's rows. [H, vocab]"""

    def vectors(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As `run`, of a program that ends with Hidden: the vectors of the head's rows. [H, width]"""

    def workspace_bytes(self) -> int:
        """Bytes of working memory beside weights and pages."""

    def close(self) -> None:
        """Stop threads and release memory. May be called twice."""
