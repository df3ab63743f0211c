"""What the worker makes of an executor's answer: results in the plan's order, tokens kept in their slots."""

from __future__ import annotations

import numpy as np

from octavo.core.plan import Plan, Run, Start, TokenLogprob
from octavo.core.request import Request, SamplingParams
from octavo.program.batch import Batch, Drawn
from octavo.worker.worker import NON_FINITE, Worker


class Counting:
    """Draws 10 * slot + position; alternatives are 0, 1, 2, ... Rows listed in `bad` are bad."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> Drawn:
        self.batches.append(batch)
        head, rows = batch.head, len(batch.head.rows)
        run_of = np.searchsorted(batch.starts, head.rows, side="right") - 1
        drawn = (10 * batch.slots[run_of] + head.position).astype(np.int32)
        width = max(int(head.top.max(initial=0)), 0)
        return Drawn(
            tokens=np.where(head.target < 0, drawn, head.target),
            logprobs=-np.arange(rows, dtype=np.float32),
            ranks=np.arange(1, rows + 1, dtype=np.int32),
            top_ids=np.tile(np.arange(width, dtype=np.int32), (rows, 1)),
            top_logprobs=np.zeros((rows, width), np.float32),
            bad=np.isin(np.arange(rows), self.bad).astype(np.uint8),
            surprise=np.full(rows, 3, np.float32),
        )

    def allocate(self, pages: int) -> None: ...
    def logits(self, batch: Batch) -> np.ndarray: ...
    def workspace_bytes(self) -> int: ...
    def close(self) -> None: ...


def started(slot: int, count: int, **sampling) -> Start:
    prompt = list(range(count))
    return Start(slot, Request(id=str(slot), prompt=prompt, sampling=SamplingParams(**sampling)), tuple(prompt))


def test_results_stand_in_the_plans_order_and_hold_what_was_asked():
    worker = Worker(Counting(), slots=4, max_len=64, vocab=100)
    starts = (started(2, 3, logprobs=1), started(0, 5, prompt_logprobs=2, logprobs=0), started(1, 4))
    runs = (Run(2, 0, 3, (7,), True), Run(0, 0, 3, (8,), False), Run(1, 0, 4, (9,), True))
    given = worker.run(Plan(0, (), starts, runs)).runs
    assert given[0].tokens == (23,)
    assert given[0].logprobs == (TokenLogprob(23, 0.0, 1, [(0, 0.0)]),)
    assert given[0].prompt_logprobs == ()
    assert given[1].tokens == given[1].logprobs == ()
    assert [entry.token for entry in given[1].prompt_logprobs] == [
        1,
        2,
        3,
    ]  # of prompt positions first+1 .. first+count
    assert [len(entry.top) for entry in given[1].prompt_logprobs] == [2, 2, 2]
    assert (given[2].tokens, given[2].logprobs, given[2].failed) == ((14,), (), None)

    rest = worker.run(Plan(1, (), (), (Run(2, 3, 1, (), True), Run(0, 3, 2, (), True)))).runs
    assert worker._executor.batches[-1].ids.tolist() == [23, 3, 4]  # what was drawn is what is computed next
    assert rest[1].tokens == (5,)
    assert [entry.token for entry in rest[1].prompt_logprobs] == [4]
    assert len(rest[1].logprobs) == 1


def test_a_bad_row_fails_its_own_run_only():
    worker = Worker(Counting(bad=(1,)), slots=3, max_len=64, vocab=100)
    starts = tuple(started(slot, 2) for slot in range(3))
    given = worker.run(Plan(0, (), starts, tuple(Run(slot, 0, 2, (slot,), True) for slot in range(3)))).runs
    assert [result.failed for result in given] == [None, NON_FINITE, None]
    assert [result.tokens for result in given] == [(2,), (), (22,)]


def test_a_bad_row_of_a_prompt_report_fails_the_run():
    worker = Worker(Counting(bad=(0,)), slots=1, max_len=64, vocab=100)
    plan = Plan(0, (), (started(0, 4, prompt_logprobs=0),), (Run(0, 0, 2, (0,), False),))
    assert worker.run(plan).runs[0].failed == NON_FINITE


def test_the_token_that_fills_a_sequence_needs_no_place():
    worker = Worker(Counting(), slots=2, max_len=4, vocab=100)
    starts = (started(0, 4), started(1, 3))
    given = worker.run(Plan(0, (), starts, (Run(0, 0, 4, (0,), True), Run(1, 0, 3, (1,), True)))).runs
    assert [result.tokens for result in given] == [(4,), (13,)]
    assert worker.slots.tokens[1].tolist() == [0, 1, 2, 13]


def test_frees_come_before_starts():
    worker = Worker(Counting(), slots=1, max_len=64, vocab=100)
    worker.run(Plan(0, (), (started(0, 3, logit_bias={1: 1.0}),), (Run(0, 0, 3, (5,), True),)))
    worker.run(Plan(1, (0,), (started(0, 2),), (Run(0, 0, 2, (6,), True),)))
    batch = worker._executor.batches[-1]
    assert batch.tables[0, 0] == 6
    assert batch.head.bias_ids.size == 0


def test_pages_of_two_cache_groups_come_row_by_row():
    worker = Worker(Counting(), slots=2, max_len=96, vocab=100, groups=2)
    worker.run(Plan(0, (), (started(1, 70),), (Run(1, 32, 20, (5, -1, 6, 7), False),)))
    worker.run(Plan(1, (), (), (Run(1, 52, 18, (8, 9), True),)))
    assert worker._executor.batches[-1].tables[1].tolist() == [5, 6, 8, -1, 7, 9]
    assert worker._executor.batches[-1].tables[0].tolist() == [0] * 6


def test_a_plan_of_frees_alone_runs_nothing():
    worker = Worker(Counting(), slots=1, max_len=64, vocab=100)
    assert worker.run(Plan(0, (0,), (), ())).runs == []
    assert worker._executor.batches == []
