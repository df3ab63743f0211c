"""What a step costs, learned from the steps there were.

Owns five coefficients: the seconds of a step are taken as a sum over what it does (`Work`). They start at a guess from
the shape of the model, and each measured step corrects them: an extended Kalman filter over their logarithms, so they
stay positive and a machine that is slower in everything is understood at once. Two things keep a noisy neighbour from
wrecking them: a step is believed to be at most twice as long, or half as long, as was predicted, and one further off
than the filter expects moves it without making it surer; and no coefficient leaves a fixed range around its guess.

Invariant: equal observations give equal answers: it reads no clock. Beside the expected seconds it keeps how much
longer one step in twenty is (a stochastic quantile: Robbins and Monro, 1951), so that a target can be kept in the other
nineteen. Knows no sequence, no page and no target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NOISE = 0.04  # variance of a step about its prediction, relative: 20 %
COMMON, OWN = 1.0, 0.25  # variance of the guess, of log seconds: of all coefficients together, and of each
COMMON_DRIFT, OWN_DRIFT = 4e-4, 1e-4  # growth of it a step: machines change
SURPRISE = 2.5  # deviations beyond which a step teaches no confidence
LONGEST, SHORTEST = 1.0, -0.5  # how far off a step may be, relative, to be believed
RANGE = 64.0  # a coefficient stays within this factor of its guess
QUANTILE, GAIN, MOST_SLACK = 0.95, 0.02, 1.5


@dataclass(slots=True)
class Work:
    """What a step does. A run of one token reads each key for one row; longer ones share the reading."""

    rows: int = 0  # tokens computed
    heads: int = 0  # rows whose logits are wanted
    lone_keys: int = 0  # keys seen by the rows of runs of one token
    chunk_keys: int = 0  # keys seen by all other rows, added up

    def add(self, first: int, count: int, heads: int) -> None:
        """One run more: `count` tokens from position `first` on, each of which sees all before it and itself."""
        self.rows += count
        self.heads += heads
        if count == 1:
            self.lone_keys += first + 1
        else:
            self.chunk_keys += count * first + count * (count + 1) // 2


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step at all, of each row, of each row of logits, and of each key a row sees. All above 0."""

    step: float
    row: float
    head: float
    lone_key: float
    chunk_key: float


class StepCost:
    """The cost of steps on one machine with one model. `guess` is corrected as soon as steps are measured."""

    def __init__(self, guess: Costs) -> None:
        self._guess = (guess.step, guess.row, guess.head, guess.lone_key, guess.chunk_key)
        self._costs = list(self._guess)
        size = range(len(self._guess))
        self._variance = [[COMMON + (OWN if i == j else 0.0) for j in size] for i in size]
        self.slack = 1.1  # how many times longer than expected one step in twenty is

    @property
    def costs(self) -> Costs:
        """What is believed now."""
        return Costs(*self._costs)

    def seconds(self, work: Work) -> float:
        """How long such a step is expected to take."""
        return sum(self._parts(work))

    def cautious(self, work: Work) -> float:
        """How long it takes at most, nineteen times in twenty."""
        return self.slack * self.seconds(work)

    def fits(self, work: Work, first: int, seconds: float, *, scored: bool = False) -> int:
        """Most tokens from position `first` on that may join `work` for the step to take at most `seconds`, cautiously.

        The last of them is drawn from; `scored`: logits of all are wanted. The later the position, the fewer they are:
        n tokens see n * first + n * (n + 1) / 2 keys, so n is the root of a quadratic.
        """
        _, row, head, _, key = self._costs
        left = seconds / self.slack - self.seconds(work) - head
        if left <= 0:
            return 0
        linear = row + key * (first + 0.5) + (head if scored else 0.0)
        return int(2 * left / (linear + math.sqrt(linear * linear + 2 * key * left)))

    def observe(self, work: Work, seconds: float) -> None:
        """A step of this work took so long."""
        parts = self._parts(work)
        expected = sum(parts)
        above = seconds > self.slack * expected
        self.slack += GAIN * (QUANTILE if above else QUANTILE - 1)
        self.slack = min(max(self.slack, 1.0), MOST_SLACK)
        error = min(max(seconds / expected - 1, SHORTEST), LONGEST)
        shares = [part / expected for part in parts]  # derivatives of the log of the seconds
        size = range(len(shares))
        lean = [sum(row[j] * shares[j] for j in size) for row in self._variance]
        total = sum(lean[i] * shares[i] for i in size) + NOISE
        bound = SURPRISE * math.sqrt(total)
        surprising = abs(error) >= min(bound, LONGEST if error > 0 else -SHORTEST)
        error = min(max(error, -bound), bound)
        for i, guess in enumerate(self._guess):
            moved = self._costs[i] * math.exp(lean[i] * error / total)
            self._costs[i] = min(max(moved, guess / RANGE), guess * RANGE)
        for i in size:
            for j in size:
                learned = 0.0 if surprising else lean[i] * lean[j] / total
                self._variance[i][j] += COMMON_DRIFT + (OWN_DRIFT if i == j else 0.0) - learned
        self._bound_variance()

    def _parts(self, work: Work) -> list[float]:
        """Seconds of each kind of work."""
        step, row, head, lone_key, chunk_key = self._costs
        return [
            step,
            row * work.rows,
            head * work.heads,
            lone_key * work.lone_keys,
            chunk_key * work.chunk_keys,
        ]

    def _bound_variance(self) -> None:
        """Nothing becomes less sure than it was at first, however long a kind of work is not seen."""
        for i, row in enumerate(self._variance):
            if row[i] > COMMON + OWN:
                scale = math.sqrt((COMMON + OWN) / row[i])
                for j in range(len(row)):
                    row[j] *= scale
                    self._variance[j][i] *= scale
