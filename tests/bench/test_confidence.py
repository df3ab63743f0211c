"""Paired ratios against what can be known: exact small cases, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.bench.confidence import paired


def test_equal_ratios_are_certain():
    found = paired([1, 2, 4], [3, 6, 12])
    assert (found.ratio, found.pairs) == (pytest.approx(3), 3)
    assert found.low == pytest.approx(3) == found.high and found.certain
    assert not paired([5, 7], [5, 7]).certain


def test_ratio_is_the_geometric_mean():
    assert paired([1, 1], [2, 8]).ratio == pytest.approx(4)
    assert paired([2, 8], [1, 1]).ratio == pytest.approx(1 / 4)


def test_two_pairs_give_the_pairs_as_interval():
    """Each is drawn twice in a quarter of the draws, far more than the 2.5 % cut off."""
    found = paired([1, 1], [2, 8])
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(8))


def test_interval_of_many_pairs_is_that_of_the_normal_distribution():
    logs = np.random.default_rng(0).normal(math.log(1.5), 0.2, 400)
    found = paired([1.0] * 400, np.exp(logs).tolist())
    half = 1.96 * logs.std() / math.sqrt(400)
    assert math.log(found.low) == pytest.approx(logs.mean() - half, abs=0.1 * half)
    assert math.log(found.high) == pytest.approx(logs.mean() + half, abs=0.1 * half)
    assert found.certain


def test_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        second = np.exp(random.normal(0.3, 0.2, 20)).tolist()
        found = paired([1.0] * 20, second, seed)
        held += found.low <= math.exp(0.3) <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_pairs_without_a_figure_are_left_out():
    found = paired([1, None, 2, 0], [2, 5, None, 3])
    assert (found.ratio, found.low, found.high, found.pairs) == (2, None, None, 1)
    assert not found.certain
    assert paired([None], [1]) is None
