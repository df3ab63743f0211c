"""Paired ratios and how sure they are: pure functions of figures measured by turns.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, the percentile interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of the ratios of `pairs` pairs, with its interval: None for less than two pairs."""

    ratio: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def paired(first: Sequence[float | None], second: Sequence[float | None], seed: int = 0) -> Ratio | None:
    """second / first over the rounds where both are there and positive; None where there is no such round.

    The pairs are drawn anew, with replacement, 10,000 times; the interval holds the middle 95 % of their geometric
    means. With few pairs it is too narrow: of 5 it covers about 85 %, of 7 about 88 %, of 20 about 93 %.
    """
    logs = np.array([np.log(b / a) for a, b in zip(first, second, strict=True) if a and b and a > 0 and b > 0])
    if not len(logs):
        return None
    low = high = None
    if len(logs) > 1:
        drawn = np.random.default_rng(seed).choice(logs, (DRAWS, len(logs))).mean(axis=1)
        edge = (1 - LEVEL) / 2 * 100
        low, high = (float(np.exp(value)) for value in np.percentile(drawn, [edge, 100 - edge]))
    return Ratio(float(np.exp(logs.mean())), low, high, len(logs))
