"""A step of a model that pools: which rows are asked, and what requests are given once their last token is computed.

Owns what is kept of a slot's tokens between steps: a sum, or rows. Invariant: what a request is given does not depend
on how its tokens were cut into steps. Knows no executor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from octavo.core.plan import Plan, Run, RunResult, StepResult
from octavo.core.request import PoolingParams
from octavo.program.batch import Batch, Floats
from octavo.program.pooling import Doubles, Pooling, added
from octavo.worker.gather import gather_rows
from octavo.worker.slots import Slots

NON_FINITE = "the model's vectors are not finite numbers"


class Pools:
    """What `Slots` is of tokens, of the vectors kept of them."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._params: dict[int, PoolingParams] = {}  # by slot
        self._kept: dict[int, Doubles] = {}  # by slot: a sum  # [width], or rows  # [rows, width]

    def apply(self, plan: Plan) -> None:
        """Forget the sequences that ended, and get to know those that begin."""
        for slot in plan.frees:
            self._params.pop(slot, None)
            self._kept.pop(slot, None)
        for start in plan.starts:
            assert start.request.pooling is not None
            self._params[start.slot] = start.request.pooling

    def gather(self, plan: Plan, slots: Slots) -> Batch:
        """The step's batch; its rows are those that the runs' requests need, run by run."""
        return gather_rows(plan, slots, [self._wanted(run) for run in plan.runs])

    def results(self, plan: Plan, vectors: Floats) -> StepResult:
        """What each run gave. vectors  # [rows, width] of the rows that were asked"""
        return StepResult([self._result(run, part) for run, part in self._parts(plan, vectors)])

    def _parts(self, plan: Plan, vectors: Floats) -> Iterator[tuple[Run, Floats]]:
        at = 0
        for run in plan.runs:
            first, end = self._wanted(run)
            yield run, vectors[at : at + end - first]
            at += end - first

    def _wanted(self, run: Run) -> tuple[int, int]:
        """Which of a run's rows are needed, the first and the one behind the last."""
        match self._pooling.kind_of(self._params[run.slot]):
            case "last":
                return run.count - run.sample, run.count
            case "cls":
                return 0, int(run.first == 0)
            case _:
                return 0, run.count

    def _result(self, run: Run, vectors: Floats) -> RunResult:
        slot, params = run.slot, self._params[run.slot]
        if not np.isfinite(vectors).all():
            return RunResult(failed=NON_FINITE)
        kind = self._pooling.kind_of(params)
        before = None if run.first == 0 else self._kept.get(slot)
        if kind == "mean":
            kept = added(np.zeros(vectors.shape[1]) if before is None else before, vectors)
        else:
            rows = vectors.astype(np.float64)
            kept = rows if before is None else np.concatenate([before, rows])
        if not run.sample:
            self._kept[slot] = kept
            return RunResult()
        given = kept[None] / (run.first + run.count) if kind == "mean" else kept
        return RunResult(vector=self._pooling.finished(given, params).tobytes())
