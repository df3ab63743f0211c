"""Who waits how long: the scheduler under a clock made up, by the predictions it plans with and the times it causes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.cache.pool import BlockPool
from octavo.core.config import SchedulerConfig
from octavo.core.errors import InvalidValue
from octavo.core.plan import Plan, RunResult, StepResult
from octavo.core.request import Request, SamplingParams
from octavo.sched.cost import Costs, StepCost, Work
from octavo.sched.scheduler import Scheduler
from octavo.sched.share import LEAST_SHARE, TILE

MACHINE = Costs(6e-3, 4e-4, 1e-4, 2e-7, 3e-7)  # a small model on two cores: 512 tokens take a quarter of a second


@dataclass
class Clocked:
    """A scheduler whose steps take what `machine` says. `cost` None: it is not told."""

    config: SchedulerConfig
    machine: Costs = MACHINE
    pages: int = 4096
    told: bool = True
    now: float = 0.0
    arrived: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, list[float]] = field(default_factory=dict)  # when each was drawn
    steps: list[tuple[Plan, float]] = field(default_factory=list)

    def __post_init__(self):
        self.cost = StepCost(self.machine)
        self.scheduler = Scheduler(self.config, BlockPool(self.pages, False), self.cost if self.told else None)

    def add(self, length: int, tokens: int = 1, priority: int = 0) -> str:
        name = f"r{len(self.arrived)}"
        self.scheduler.add(
            Request(id=name, prompt=[1] * length, sampling=SamplingParams(max_tokens=tokens), priority=priority)
        )
        self.arrived[name] = self.now
        self.tokens[name] = []
        return name

    def step(self) -> Plan:
        assert len(self.steps) < 5000, "somebody starves"
        plan = self.scheduler.plan()
        self.scheduler.check()
        outputs = self.scheduler.commit(plan, StepResult([RunResult((7,) if run.sample else ()) for run in plan.runs]))
        seconds = StepCost(self.machine).seconds(work_of(plan))
        self.scheduler.learn(seconds)
        self.now += seconds
        self.steps.append((plan, seconds))
        for output in outputs:
            self.tokens[output.id] += [self.now] * len(output.tokens)
        return plan

    def wait(self, name: str) -> float:
        """Run until the first token of a request; its time to first token."""
        while not self.tokens[name]:
            self.step()
        return self.tokens[name][0] - self.arrived[name]

    def gaps(self, names: list[str], since: float) -> list[float]:
        """Times between two tokens of these requests."""
        return [
            late - early
            for name in names
            for early, late in zip(self.tokens[name], self.tokens[name][1:], strict=False)
            if late > since
        ]


def work_of(plan: Plan, *, decodes: bool = True) -> Work:
    """What the plan computes; decodes=False: of runs longer than one token."""
    work = Work()
    for run in plan.runs:
        if decodes or run.count > 1:
            work.add(run.first, run.count, int(run.sample))
    return work


def decoding(clocked: Clocked, count: int, length: int = 200) -> list[str]:
    """So many requests that answer, and go on for long."""
    names = [clocked.add(length, 100_000) for _ in range(count)]
    while not all(clocked.tokens[name] for name in names):
        clocked.step()
    return names


def config(**changed) -> SchedulerConfig:
    return SchedulerConfig(**{"max_seqs": 64, "max_len": 100_000} | changed)


# The target


@pytest.mark.parametrize(
    ("target", "told", "longest"), [(100, True, 0.1), (50, True, 0.05), (0, True, 1), (100, False, 1)]
)
def test_a_long_prompt_does_not_stall_answers(target, told, longest):
    clocked = Clocked(config(itl_target_ms=target), told=told)
    names = decoding(clocked, 8)
    began = clocked.now
    waited = clocked.wait(clocked.add(8000))
    gaps = clocked.gaps(names, began)
    if longest < 1:
        assert max(gaps) <= longest
        assert sum(gaps) / len(gaps) > 0.75 * longest  # and the time is used
    else:
        assert max(gaps) > 0.3
    assert waited < 30


def test_chunks_shrink_with_depth_and_are_whole_tiles():
    clocked = Clocked(config())
    decoding(clocked, 4)
    name = clocked.add(8000)
    begun = len(clocked.steps)
    clocked.wait(name)
    chunks = [run.count for plan, _ in clocked.steps[begun:] for run in plan.runs if run.count > 1]
    assert all(count % 32 == 0 for count in chunks[:-1] if count >= 128)
    assert all(count % TILE == 0 for count in chunks[:-1])
    assert chunks[0] > 4 * chunks[-2] > 0
    assert chunks[:-1] == sorted(chunks[:-1], reverse=True)


@pytest.mark.parametrize("prompts", [[8000], [700, 8000, 40]])
def test_where_nobody_answers_steps_are_full(prompts):
    clocked = Clocked(config())
    for length in prompts:
        clocked.add(length)  # of one token each: they never wait for a second
    while clocked.scheduler.has_work:
        left = sum(prompts) - sum(run.count for plan, _ in clocked.steps for run in plan.runs)
        assert work_of(clocked.step()).rows == min(left, 512)


def test_prompts_advance_though_the_decodes_alone_break_the_target():
    """By an eighth of the target a step, and by a tile where even that is less."""
    for target, least in ((4, TILE), (40, 40 // 8 * 0.9 / 0.4)):
        clocked = Clocked(config(itl_target_ms=target), machine=Costs(60e-3, 4e-4, 1e-4, 2e-7, 3e-9))
        decoding(clocked, 8)
        long, short = clocked.add(3000), clocked.add(300)
        plan = clocked.step()
        assert work_of(plan, decodes=False).rows >= least
        assert {clocked.scheduler._sequences[name].computed > 0 for name in (long, short)} == {True}
        assert clocked.wait(short) < 60 / least * 20
        clocked.wait(long)


@given(
    costs=st.builds(Costs, *[st.floats(-1, 1.5).map(lambda p, c=c: c * 10**p) for c in (6e-3, 4e-4, 1e-4, 2e-7, 3e-7)]),
    target=st.sampled_from([5, 20, 100, 400]),
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.one_of(st.integers(1, 300), st.integers(1, 6000)), st.integers(1, 40)),
        min_size=1,
        max_size=12,
    ),
    max_seqs=st.integers(1, 8),
    policy=st.sampled_from(["fcfs", "priority"]),
)
@settings(max_examples=80, deadline=None)
def test_steps_are_predicted_to_keep_the_target(costs, target, arrivals, max_seqs, policy):
    """Whenever that is possible: beyond it only as far as the two first prompts are owed."""
    clocked = Clocked(config(itl_target_ms=target, max_seqs=max_seqs, policy=policy), machine=costs)
    arrivals = list(arrivals)
    pause = 0
    while arrivals or clocked.scheduler.has_work:
        while arrivals and (pause <= 0 or not clocked.scheduler.has_work):
            pause, length, tokens = arrivals.pop(0)
            clocked.add(length, tokens, priority=length % 3)
        pause -= 1
        running = {s.slot for s in clocked.scheduler._running if s.pending == 1}
        prompts = [s for s in clocked.scheduler._running if s.pending > 1]
        before = StepCost(clocked.cost.costs)
        before.slack = clocked.cost.slack
        plan = clocked.step()
        assert {run.slot for run in plan.runs} >= running, "an answer does not go on"
        chunks = [run for run in plan.runs if run.slot not in running]
        assert chunks or not prompts, "no prompt goes on"
        if not running:
            continue
        decodes = Work()
        for run in plan.runs:
            if run.slot in running:
                decodes.add(run.first, 1, 1)
        limit = max(target / 1000, before.cautious(decodes) + LEAST_SHARE * target / 1000)
        over = before.cautious(work_of(plan)) > limit * (1 + 1e-9)
        assert not over or min(run.count for run in chunks) <= TILE
    assert all(clocked.tokens[name] for name in clocked.arrived)


# Fairness


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("answering", [0, 8])
def test_a_short_prompt_does_not_wait_behind_long_ones(ahead, answering):
    """Running or queued: at most about twice as long as if they were not there."""
    alone = Clocked(config())
    decoding(alone, answering)
    best = alone.wait(alone.add(256))
    clocked = Clocked(config())
    decoding(clocked, answering)
    long = [clocked.add(8000) for _ in range(ahead)]
    for _ in range(3):
        clocked.step()
    assert not any(clocked.tokens[name] for name in long)
    assert clocked.wait(clocked.add(256)) < 2.5 * best + 0.2
    assert not any(clocked.tokens[name] for name in long)


@pytest.mark.parametrize("answering", [0, 8])
def test_a_long_prompt_is_not_starved_by_short_ones(answering):
    """Of which there are always some: it takes about twice the time it takes without them."""
    alone = Clocked(config())
    decoding(alone, answering)
    best = alone.wait(alone.add(6000))
    clocked = Clocked(config())
    decoding(clocked, answering)
    long = clocked.add(6000)
    shorts = []
    while not clocked.tokens[long]:
        while clocked.scheduler.stats().waiting < 4:
            shorts.append(clocked.add(100))
        clocked.step()
    assert clocked.tokens[long][0] - clocked.arrived[long] < 2.6 * best
    assert sum(len(clocked.tokens[name]) for name in shorts) > 20


@given(
    lengths=st.lists(st.integers(2, 3000), min_size=2, max_size=15),
    seed=st.integers(0, 99),
    max_seqs=st.integers(1, 6),
    budget=st.sampled_from([64, 100, 512]),
)
@settings(max_examples=80, deadline=None)
def test_waiting_is_bounded_by_twice_what_is_before(lengths, seed, max_seqs, budget):
    """In tokens, where only they bind: until a prompt is done, half of each step goes to it or to those before it."""
    source = random.Random(seed)
    clocked = Clocked(config(max_seqs=max_seqs, max_step_tokens=budget, itl_target_ms=0))
    served, at, done = 0, {}, {}
    pending = list(lengths)
    while pending or clocked.scheduler.has_work:
        while pending and (source.random() < 0.3 or not clocked.scheduler.has_work):
            at[clocked.add(pending.pop(0))] = served
        served += work_of(clocked.step()).rows
        for name, drawn in clocked.tokens.items():
            if drawn:
                done.setdefault(name, served)
    for index, name in enumerate(clocked.arrived):
        before = sum(lengths[: index + 1])
        assert done[name] - at[name] <= 2 * before + 2 * budget


def test_equal_prompts_at_once_are_finished_one_by_one():
    """The mean time to the first token is that of a queue, half of the last; not of all at once."""
    clocked = Clocked(config())
    names = [clocked.add(256, 64) for _ in range(32)]
    while clocked.scheduler.has_work:
        clocked.step()
    firsts = [clocked.tokens[name][0] for name in names]
    assert firsts == sorted(firsts)
    assert sum(firsts) / 32 < 0.62 * firsts[-1]
    assert max(clocked.gaps(names, 0.0)) <= 0.1


def test_with_priorities_the_important_go_first_whatever_their_length():
    clocked = Clocked(config(policy="priority", max_step_tokens=100))
    clocked.add(1000, priority=1)
    clocked.step()
    short, important = clocked.add(50, priority=1), clocked.add(500, priority=0)
    clocked.wait(important)
    assert not clocked.tokens[short]


# What is told


def test_predictions_and_tokens_are_reported():
    clocked = Clocked(config())
    clocked.add(700, 3)
    clocked.step()
    stats = clocked.scheduler.stats()
    assert stats.step_tokens == 512
    assert stats.predicted_seconds == pytest.approx(clocked.steps[-1][1])
    assert Clocked(config(), told=False).scheduler.stats().predicted_seconds == 0


def test_equal_measures_give_equal_plans():
    plans = []
    for _ in range(2):
        clocked = Clocked(config())
        decoding(clocked, 3)
        clocked.wait(clocked.add(2000))
        plans.append([plan.runs for plan, _ in clocked.steps])
    assert plans[0] == plans[1]


@pytest.mark.parametrize("target", [-1, float("inf"), float("nan")])
def test_impossible_targets_are_refused(target):
    with pytest.raises(InvalidValue, match="itl_target_ms"):
        SchedulerConfig(itl_target_ms=target)
