"""When requests arrive: the processes, by their moments, and their scale, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.bench.arrivals import arrivals, stretched


@given(
    count=st.integers(1, 300),
    rate=st.floats(0.01, 1000),
    burstiness=st.floats(0.05, 20) | st.just(math.inf),
    seed=st.integers(0, 2**32),
)
def test_arrivals_rise_and_end_at_exactly_count_over_rate(count, rate, burstiness, seed):
    times = arrivals(count, rate, burstiness, np.random.default_rng(seed))
    assert times.shape == (count,) and times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert times[-1] == pytest.approx(count / rate, rel=1e-12) or times[-1] == 0  # gaps may be too small to be numbers
    assert (times == arrivals(count, rate, burstiness, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_variation_of_the_gamma_distribution(burstiness):
    gaps = np.diff(arrivals(200_000, 5.0, burstiness, np.random.default_rng(1)), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 5, rel=1e-9)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.02)


def test_poisson_arrivals_are_poisson():
    """Gaps above t are as frequent as exp(-rate t), and counts in windows vary as their mean."""
    times = arrivals(100_000, 2.0, 1.0, np.random.default_rng(3))
    gaps = np.diff(times)
    for t in (0.1, 0.5, 1.5):
        assert (gaps > t).mean() == pytest.approx(math.exp(-2 * t), abs=0.01)
    counts = np.bincount((times / 10).astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.06)


def test_infinite_rate_is_everybody_at_once_and_infinite_burstiness_is_a_clock():
    random = np.random.default_rng(0)
    assert arrivals(4, math.inf, 1.0, random).tolist() == [0, 0, 0, 0]
    assert arrivals(4, 2.0, math.inf, random).tolist() == [0.5, 1.0, 1.5, 2.0]


def test_a_trace_is_stretched_evenly():
    times = np.array([0.0, 1.0, 4.0])
    assert stretched(times, 0.5).tolist() == [0.0, 1.5, 6.0]
    assert stretched(times, math.inf).tolist() == [0.0, 1.0, 4.0]
    assert stretched(np.zeros(3), 2.0).tolist() == [0, 0, 0]
