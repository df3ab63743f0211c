"""Steps of a given shape, without a scheduler: random tokens, and pages of its own for each sequence.

Invariant: the same runs give the same step. What the pages hold before a run's first position was never
computed; for speed it does not matter. Knows no executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from octavo.core.layout import pages_for
from octavo.program.batch import Batch, HeadRows, Ints

Run = tuple[int, int]  # first position, tokens computed


@dataclass(frozen=True, slots=True)
class StepShape:
    """A prompt of `prompt` tokens, and `batch` sequences that decode behind `context` tokens each."""

    prompt: int = 0
    batch: int = 0
    context: int = 0

    @property
    def name(self) -> str:
        """Such as "prefill 512 + decode 8 at 1024"."""
        parts = [f"prefill {self.prompt}"] if self.prompt else []
        return " + ".join(parts + ([f"decode {self.batch} at {self.context}"] if self.batch else []))

    @property
    def runs(self) -> list[Run]:
        """The runs of one step."""
        return [(0, self.prompt)] * bool(self.prompt) + [(self.context, 1)] * self.batch


def pages(runs: Sequence[Run], groups: int = 1) -> int:
    """Pages that the sequences of a step take in so many cache groups; none is given back."""
    return groups * sum(pages_for(first + count) for first, count in runs)


def step(runs: Sequence[Run], vocab: int, groups: int = 1, *, temperature: float = 0, top_p: float = 1) -> Batch:
    """One run of each sequence; the last row of each is drawn from. Pages are numbered from 0 and scattered.

    groups: cache groups, see KvLayout.
    """
    rng = np.random.default_rng(0)
    counts = [count for _, count in runs]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    need = [pages_for(first + count) for first, count in runs]
    order = rng.permutation(groups * sum(need)).astype(np.int32)
    tables = np.zeros((len(runs), groups, max(need)), np.int32)
    for table, end, size in zip(tables, np.cumsum(need) * groups, need, strict=True):
        table[:, :size] = order[end - groups * size : end].reshape(groups, size)
    return Batch(
        ids=rng.integers(0, vocab, starts[-1]).astype(np.int32),
        positions=np.concatenate([np.arange(first, first + count) for first, count in runs]).astype(np.int32),
        starts=starts,
        kv_lens=np.array([first + count for first, count in runs], np.int32),
        slots=np.arange(len(runs), dtype=np.int32),
        tables=tables.reshape(len(runs), -1),
        head=alike(starts[1:] - 1, temperature, top_p),
    )


def alike(rows: Ints, temperature: float, top_p: float) -> HeadRows:
    """Head rows that are all drawn in one way."""
    count = len(rows)
    zeros, ones, none = np.zeros(count, np.float32), np.ones(count, np.float32), np.full(count, -1, np.int32)
    starts = np.zeros(count + 1, np.int64)
    return HeadRows(
        rows=rows.astype(np.int32),
        target=none,
        top=none,
        temperature=zeros + np.float32(temperature),
        top_k=np.zeros(count, np.int32),
        top_p=ones * np.float32(top_p),
        min_p=zeros,
        presence=zeros,
        frequency=zeros,
        repetition=ones,
        seed=np.arange(count, dtype=np.uint64),
        position=np.zeros(count, np.int64),
        history_starts=starts,
        history=np.zeros(0, np.int32),
        prompt_lens=np.zeros(count, np.int32),
        bias_starts=starts,
        bias_ids=np.zeros(0, np.int32),
        bias_values=np.zeros(0, np.float32),
    )
