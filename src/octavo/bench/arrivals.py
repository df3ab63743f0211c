"""When requests arrive: seconds since the start of a run, in rising order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


def arrivals(count: int, rate: float, burstiness: float, random: np.random.Generator) -> Times:
    """`count` arrivals [count] at `rate` a second, the last at exactly count / rate; all 0 for an infinite rate.

    The times between them have a gamma distribution of shape `burstiness` (coefficient of variation
    1 / sqrt(burstiness)): 1 is a Poisson process, below 1 comes in bursts, infinity is constant. Source: the arrivals
    of `vllm bench serve`, its rescaling included.
    """
    if math.isinf(rate):
        return np.zeros(count)
    gaps = np.ones(count) if math.isinf(burstiness) else random.gamma(burstiness, 1 / (rate * burstiness), count)
    return stretched(np.cumsum(gaps), rate)


def stretched(times: Times, rate: float) -> Times:
    """Arrivals stretched evenly, so that the last comes at count / rate; as they are for an infinite rate."""
    if math.isinf(rate) or not len(times) or times[-1] <= 0:
        return times
    return np.asarray(times * (len(times) / rate / times[-1]))
