"""Runs plans: keeps the slots, gathers the batch, calls the executor once, and says what each run gave.

Invariant: after `run`, a slot's tokens hold what was drawn for it, so the next plan needs to name positions only. Does
not know why a run was planned, nor what a finish is.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from octavo.core.plan import Plan, RunResult, StepResult, TokenLogprob
from octavo.program.batch import Drawn
from octavo.program.executor import Executor
from octavo.program.pooling import Pooling
from octavo.worker.gather import Gathered, gather
from octavo.worker.grammars import Grammars
from octavo.worker.guides import Guides
from octavo.worker.pool import Pools
from octavo.worker.processors import Processors
from octavo.worker.slots import Slots

NON_FINITE = "the model's logits are not finite numbers"


class Worker:
    """`slots` sequences at most, each of at most `max_len` tokens of a vocabulary of `vocab`, in `groups` of layers.

    pooling: of a program that ends with vectors.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        slots: int,
        max_len: int,
        vocab: int,
        groups: int = 1,
        grammars: Grammars | None = None,
        jump: bool = True,
        pooling: Pooling | None = None,
        processors: Processors | None = None,
    ) -> None:
        """jump: tokens that a grammar forces are appended without a draw, which changes no text."""
        self._executor = executor
        self._pools = None if pooling is None else Pools(pooling)
        self.slots = Slots(slots, max_len, vocab, groups)
        self.guides = Guides(grammars, slots, vocab, jump=jump)
        self.processors = processors or Processors({}, vocab)

    def run(self, plan: Plan) -> StepResult:
        """One step. Whatever it raises is an engine fault: no run's request can cause it."""
        self._apply(plan)
        if not plan.runs:
            return StepResult()
        if self._pools is not None:
            batch = self._pools.gather(plan, self.slots)
            return self._pools.results(plan, self._executor.vectors(batch))
        gathered = gather(plan, self.slots)
        batch = gathered.batch
        if self.guides.any:
            batch = replace(batch, head=self.guides.masked(batch.head, gathered.drawn_rows, gathered.drawn_slots))
        rows, slots = gathered.drawn_rows, gathered.drawn_slots
        if processed := self.processors.any:
            batch = replace(batch, head=self.processors.asked(batch.head, rows, slots))
        drawn = self._executor.run(batch)
        if processed:
            self.processors.draw(batch.head, drawn, rows, slots, self.slots)
        self._keep(gathered, drawn)
        results = self._guide(plan, self._mirostat(plan, _results(plan, gathered, drawn)))
        return StepResult(self._failed(plan, results) if processed else results)

    def close(self) -> None:
        """Release the executor."""
        self._executor.close()

    def _apply(self, plan: Plan) -> None:
        slots = self.slots
        if plan.copies:
            self._executor.copy(plan.copies)
        for slot in plan.frees:
            slots.free(slot)
            self.guides.free(slot)
            self.processors.free(slot)
        for start in plan.starts:
            slots.start(start)
            self.guides.start(start)
            self.processors.start(start)
        if self._pools is not None:
            self._pools.apply(plan)
        for run in plan.runs:
            if run.blocks:
                slots.append_pages(run.slot, run.blocks)

    def _keep(self, gathered: Gathered, drawn: Drawn) -> None:
        """Append the drawn tokens to their slots. A token that fills its sequence has no place and no successor."""
        rows, slot, slots = gathered.drawn_rows, gathered.drawn_slots, self.slots
        if slots.mirostat[slot].any():
            slots.surprised(slot, drawn.surprise[rows])
        position = gathered.batch.head.position[rows]
        fits = position < slots.max_len
        rows, slot, position = rows[fits], slot[fits], position[fits]
        slots.tokens[slot, position] = drawn.tokens[rows]
        slots.lengths[slot] = position + 1

    def _failed(self, plan: Plan, results: list[RunResult]) -> list[RunResult]:
        """The results, with the ends of sequences whose processors failed."""
        failures = self.processors.failures
        return [
            RunResult(failed=failures[run.slot]) if run.sample and run.slot in failures else result
            for run, result in zip(plan.runs, results, strict=True)
        ]

    def _mirostat(self, plan: Plan, results: list[RunResult]) -> list[RunResult]:
        """The results with mirostat's state, so that it outlives a preemption."""
        if not self.slots.mirostat.any():
            return results
        return [
            msgspec.structs.replace(result, mu=self.slots.mu(run.slot)) if result.tokens else result
            for run, result in zip(plan.runs, results, strict=True)
        ]

    def _guide(self, plan: Plan, results: list[RunResult]) -> list[RunResult]:
        """The results with what grammars make of the drawn tokens; forced tokens are appended to their slots."""
        if not self.guides.any:
            return results
        slots = self.slots
        for index, (run, result) in enumerate(zip(plan.runs, results, strict=True)):
            if not result.tokens:
                continue
            length = int(slots.lengths[run.slot])
            advance = self.guides.accept(
                run.slot,
                result.tokens[0],
                slots.max_len - length,
                jump=slots.takes_what_is_forced(run.slot),
                banned=slots.forbids(run.slot, result.tokens[0], length - 1),
            )
            if advance is None:
                continue
            forced = advance.tokens[1:]
            slots.tokens[run.slot, length : length + len(forced)] = forced
            slots.lengths[run.slot] = length + len(forced)
            results[index] = msgspec.structs.replace(
                result,
                tokens=tuple(advance.tokens),
                stopped=advance.stopped or advance.failed is not None,
                failed=advance.failed,
            )
        return results


def _results(plan: Plan, gathered: Gathered, drawn: Drawn) -> list[RunResult]:
    """One result for each run, in the plan's order."""
    tokens = drawn.tokens.tolist()
    bad = drawn.bad.tolist() if drawn.bad.any() else None
    top = gathered.batch.head.top
    logprobs = _logprobs(drawn, top) if len(top) and int(top.max()) >= 0 else None
    results: list[RunResult] = []
    bounds = gathered.head_starts
    for index, run in enumerate(plan.runs):
        begin, end = bounds[index], bounds[index + 1]
        if bad is not None and any(bad[begin:end]):
            results.append(RunResult(failed=NON_FINITE))
            continue
        given = end - 1 if run.sample else end  # rows begin:given report on prompt tokens
        last = logprobs[given] if logprobs is not None and run.sample else None
        results.append(
            RunResult(
                tokens=(tokens[given],) if run.sample else (),
                logprobs=() if last is None else (last,),
                prompt_logprobs=_present(logprobs, begin, given),
            )
        )
    return results


def _present(logprobs: list[TokenLogprob | None] | None, begin: int, end: int) -> tuple[TokenLogprob, ...]:
    if logprobs is None or begin == end:
        return ()
    return tuple(entry for entry in logprobs[begin:end] if entry is not None)


def _logprobs(drawn: Drawn, top: np.ndarray) -> list[TokenLogprob | None]:
    """One entry for each head row; None where none was asked for."""
    ids, values = drawn.top_ids.tolist(), drawn.top_logprobs.tolist()
    asked, tokens = top.tolist(), drawn.tokens.tolist()
    scores, ranks = drawn.logprobs.tolist(), drawn.ranks.tolist()
    return [
        TokenLogprob(tokens[i], scores[i], ranks[i], list(zip(ids[i][:n], values[i][:n], strict=True)))
        if n >= 0
        else None
        for i, n in enumerate(asked)
    ]
