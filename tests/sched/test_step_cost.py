"""The cost model against machines made up: what it learns, from how many steps, and what does not wreck it."""

from __future__ import annotations

import math
import random
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.sched.cost import MOST_SLACK, OWN_DRIFT, RANGE, Costs, StepCost, Work

TRUTH = Costs(6e-3, 4e-4, 1e-4, 2e-7, 3e-7)
costs = st.builds(Costs, *[st.floats(-2, 2).map(lambda power, c=c: c * 10**power) for c in astuple(TRUTH)])
works = st.builds(Work, *[st.integers(0, most) for most in (600, 600, 300_000, 2_000_000)])


def seconds(truth: Costs, work: Work) -> float:
    return sum(c * x for c, x in zip(astuple(truth), (1, *astuple(work)), strict=True))


def served(source: random.Random) -> Work:
    """A step as a server sees them: decodes, mostly with a chunk."""
    work = Work()
    for _ in range(source.randrange(0, 33)):
        work.add(source.randrange(64, 1024), 1, 1)
    if source.random() < 0.6 or not work.rows:
        work.add(source.randrange(0, 4000), source.randrange(8, 512), source.randrange(2))
    return work


def learned(truth: Costs, guess: Costs, steps: int, seed: int, outliers: float = 0.05) -> StepCost:
    """After steps with 10 % of noise, some of which took up to ten times as long."""
    source, cost = random.Random(seed), StepCost(guess)
    for _ in range(steps):
        work = served(source)
        late = source.uniform(2, 10) if source.random() < outliers else 1.0
        cost.observe(work, seconds(truth, work) * source.lognormvariate(0, 0.1) * late)
    return cost


def wrong(cost: StepCost, truth: Costs, seed: int) -> float:
    """Root mean square of the logarithm of predicted over true seconds, over steps not seen."""
    source = random.Random(-seed - 1)
    logs = [math.log(cost.seconds(work) / seconds(truth, work)) for work in (served(source) for _ in range(300))]
    return math.sqrt(sum(log * log for log in logs) / len(logs))


@pytest.mark.parametrize("factors", [(1,) * 5, (5,) * 5, (0.1,) * 5, (3, 1, 0.3, 4, 0.3), (0.2, 4, 3, 0.3, 5)])
def test_it_learns_a_machine_from_noisy_steps(factors):
    guess = Costs(*(c * factor for c, factor in zip(astuple(TRUTH), factors, strict=True)))
    for seed in range(10):
        assert wrong(learned(TRUTH, guess, 300, seed), TRUTH, seed) < 0.2
        assert wrong(learned(TRUTH, guess, 40, seed), TRUTH, seed) < 0.45


@pytest.mark.parametrize("factor", [0.02, 50])
def test_a_guess_far_off_is_left_within_twenty_steps(factor):
    guess = Costs(*(c * factor for c in astuple(TRUTH)))
    assert max(wrong(learned(TRUTH, guess, 20, seed), TRUTH, seed) for seed in range(10)) < 0.6


def test_late_steps_do_little():
    assert max(wrong(learned(TRUTH, TRUTH, 300, seed, outliers=0.15), TRUTH, seed) for seed in range(10)) < 0.24


@pytest.mark.parametrize("factor", [0.4, 3])
def test_it_follows_a_machine_that_changes(factor):
    for seed in range(10):
        cost = learned(TRUTH, TRUTH, 500, seed)
        now = Costs(*(factor * c for c in astuple(TRUTH)))
        source = random.Random(seed)
        for _ in range(60):
            work = served(source)
            cost.observe(work, seconds(now, work) * source.lognormvariate(0, 0.1))
        assert wrong(cost, now, seed) < 0.25


def test_a_kind_of_work_long_unseen_is_not_wrecked_by_one_late_step():
    cost = learned(TRUTH, TRUTH, 300, 0, outliers=0)
    lone, chunk = Work(), Work()
    for _ in range(8):
        lone.add(500, 1, 1)
    chunk.add(2000, 256, 0)
    for _ in range(20_000):
        cost.observe(lone, seconds(TRUTH, lone))
    before = cost.seconds(chunk)
    assert before == pytest.approx(seconds(TRUTH, chunk), rel=0.2)
    cost.observe(chunk, 20 * seconds(TRUTH, chunk))
    assert cost.seconds(chunk) < 3 * before


def test_what_was_not_seen_for_a_million_steps_does_not_jump_at_a_trace_of_it(monkeypatch):
    cost = learned(TRUTH, TRUTH, 300, 0, outliers=0)
    monkeypatch.setattr("octavo.sched.cost.OWN_DRIFT", 100 * OWN_DRIFT)
    lone, trace = Work(), Work()
    for _ in range(32):
        lone.add(500, 1, 1)
    for _ in range(10_000):
        cost.observe(lone, seconds(TRUTH, lone))
    trace.add(0, 8, 0)
    before = cost.costs.chunk_key
    cost.observe(Work(40, 32, lone.lone_keys, trace.chunk_keys), 3 * seconds(TRUTH, lone))
    assert abs(math.log(cost.costs.chunk_key / before)) < 0.1


@given(guess=costs, steps=st.lists(st.tuples(works, st.floats(1e-6, 1e3)), max_size=80))
@settings(max_examples=150, deadline=None)
def test_whatever_is_measured_all_stays_finite_and_in_range(guess, steps):
    cost = StepCost(guess)
    for work, measured in steps:
        cost.observe(work, measured)
        for now, first in zip(astuple(cost.costs), astuple(guess), strict=True):
            assert first / RANGE * 0.999 <= now <= first * RANGE * 1.001
        assert 1 <= cost.slack <= MOST_SLACK
        assert cost.seconds(work) <= cost.cautious(work) < math.inf


@given(work=works, guess=costs, first=st.integers(0, 8000), target=st.floats(1e-4, 2), scored=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_fits_is_all_that_fits(work, guess, first, target, scored):
    cost = StepCost(guess)
    count = cost.fits(work, first, target, scored=scored)
    assert count >= 0

    def with_tokens(more: int) -> float:
        """A chunk, whose last row is drawn from."""
        keys = work.chunk_keys + more * first + more * (more + 1) // 2
        heads = work.heads + (more if scored else 0) + 1
        return cost.cautious(Work(work.rows + more, heads, work.lone_keys, keys))

    assert count == 0 or with_tokens(count) <= target * (1 + 1e-6)
    assert with_tokens(count + 1) > target * (1 - 1e-6)


def test_one_step_in_twenty_is_longer_than_the_cautious_guess():
    cost = learned(TRUTH, TRUTH, 2000, 3, outliers=0)
    source, longer = random.Random(9), 0
    for _ in range(2000):
        work = served(source)
        measured = seconds(TRUTH, work) * source.lognormvariate(0, 0.1)
        longer += measured > cost.cautious(work)
        cost.observe(work, measured)
    assert 0.03 < longer / 2000 < 0.07


def test_keys_are_those_each_row_sees():
    work = Work()
    work.add(10, 3, 1)
    assert (work.rows, work.heads, work.lone_keys, work.chunk_keys) == (3, 1, 0, 11 + 12 + 13)
    work.add(10, 1, 1)
    assert (work.rows, work.heads, work.lone_keys, work.chunk_keys) == (4, 2, 11, 36)
