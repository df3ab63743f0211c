"""llama.cpp's samplers, one plain function each: the definition of what a row with `steps` (batch.py) draws from.

What a step gets are the tokens that those before it left, in order of id, with logits in float64; shares are always
those among them. Likelier goes first, the lower id on a tie. The rules are those of llama.cpp's src/llama-sampling.cpp,
read in its sources, with numbers in float64; what it draws at random comes from Philox here. Knows one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.core.request import SAMPLERS, SamplingParams
from octavo.program.batch import EXTRAS, STEP_BITS, STEPS, HeadRows

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

ORDER = STEPS[:7]  # where the request names none: what three says of batch.py, and llama.cpp's own where theirs are
MIROSTAT_TOKENS = 100  # likeliest tokens that the first mirostat estimates the slope of the distribution from


@dataclass(frozen=True, slots=True)
class Settings:
    """What one row's steps need. xtc_draw: in [0, 1), decides whether XTC takes part. vocab: of the model."""

    vocab: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat_mu: float = 10.0
    xtc_draw: float = 0.0

    @staticmethod
    def of(head: HeadRows, row: int, vocab: int, xtc_draw: float) -> Settings:
        """Those of one row."""
        columns = {name: float(getattr(head, name)[row]) for name in ("temperature", "top_p", "min_p")}
        extras = dict(zip(EXTRAS, head.extras[row].tolist(), strict=True))
        return Settings(vocab, top_k=int(head.top_k[row]), xtc_draw=xtc_draw, **columns, **extras)


def steps_of(sampling: SamplingParams) -> list[str]:
    """The steps a request is drawn by, in their order; none where it asks for nothing that needs them."""
    extra = sampling.typical_p < 1 or sampling.top_n_sigma > 0 or sampling.xtc_probability > 0 or sampling.mirostat
    if sampling.samplers is None and not sampling.dynatemp_range and (sampling.greedy or not extra):
        return []
    if sampling.mirostat:
        return ["temperature", "mirostat" if sampling.mirostat == 1 else "mirostat_2"]
    if sampling.samplers is None:
        return list(ORDER)
    return [SAMPLERS[name] for name in sampling.samplers if name in SAMPLERS]


def packed(names: list[str]) -> int:
    """Steps as a row's `steps` holds them."""
    return sum((1 + STEPS.index(name)) << STEP_BITS * place for place, name in enumerate(names))


def unpacked(steps: int) -> list[str]:
    """The names of a row's steps, in their order."""
    names = []
    while steps:
        names.append(STEPS[steps % (1 << STEP_BITS) - 1])
        steps >>= STEP_BITS
    return names


def log_shares(x: Doubles) -> Doubles:
    """Logarithms of the tokens' shares. x, result  # [n]"""
    top = x.max()
    return np.asarray(x - top - np.log(np.exp(x - top).sum()), np.float64)


def ranked(x: Doubles) -> Places:
    """Places of the tokens, likeliest first."""
    return np.argsort(-x, kind="stable")


def entropy(x: Doubles) -> float:
    """In nats."""
    logs = log_shares(x)
    return float(-(np.exp(logs) * logs).sum())


def temper(x: Doubles, s: Settings) -> Doubles:
    """Logits by the temperature, which goes with the entropy where there is a range; -inf on all but one at 0."""
    temperature = s.temperature
    if s.dynatemp_range > 0:
        if len(x) < 2:
            return x
        low, high = max(0.0, temperature - s.dynatemp_range), temperature + s.dynatemp_range
        temperature = low + (high - low) * (entropy(x) / np.log(len(x))) ** s.dynatemp_exponent
    if temperature > 0:
        return x / temperature
    return np.where(np.arange(len(x)) == x.argmax(), x, -np.inf)


def top_n_sigma(x: Doubles, s: Settings) -> Places:
    """Those at most so many standard deviations of the logits below the largest."""
    return np.flatnonzero(x >= x.max() - s.top_n_sigma * x.std()) if s.top_n_sigma > 0 else np.arange(len(x))


def min_p(x: Doubles, s: Settings) -> Places:
    """Those with at least this part of the largest share."""
    return np.flatnonzero(x >= x.max() + np.log(s.min_p)) if s.min_p > 0 else np.arange(len(x))


def top_k(x: Doubles, s: Settings) -> Places:
    """The k likeliest."""
    return ranked(x)[: s.top_k or len(x)]


def top_p(x: Doubles, s: Settings) -> Places:
    """The fewest likeliest whose share reaches top_p."""
    order = ranked(x)
    sums = np.cumsum(np.exp(log_shares(x))[order])
    return order[: int(np.searchsorted(sums, s.top_p)) + 1] if s.top_p < 1 else order


def typical_p(x: Doubles, s: Settings) -> Places:
    """The fewest, those first whose surprise is nearest to the entropy, whose share exceeds typical_p."""
    order, logs = ranked(x), log_shares(x)
    if s.typical_p >= 1:
        return order
    far = np.abs(-logs - entropy(x))[order]
    order = order[np.argsort(far, kind="stable")]
    sums = np.cumsum(np.exp(logs)[order])
    return order[: int(np.searchsorted(sums, s.typical_p, side="right")) + 1]


def xtc(x: Doubles, s: Settings) -> Places:
    """All but the likeliest, as long as another with at least this share is left; by chance all."""
    order = ranked(x)
    if s.xtc_draw >= s.xtc_probability or s.xtc_threshold > 0.5:
        return order
    count = int(np.count_nonzero(np.exp(log_shares(x)) >= s.xtc_threshold))
    return order[max(0, count - 1) :]


def mirostat(x: Doubles, s: Settings) -> Places:
    """As many of the likeliest as have the surprise mu, by an estimate of Zipf's exponent."""
    order = ranked(x)
    steps = np.arange(min(MIROSTAT_TOKENS, len(x)) - 1)
    ratios, falls = np.log((steps + 2) / (steps + 1)), x[order][steps] - x[order][steps + 1]
    with np.errstate(all="ignore"):
        slope = (ratios * falls).sum() / (ratios * ratios).sum()
        beyond = slope - 1
        k = (beyond * 2.0**s.mirostat_mu / (1 - float(s.vocab) ** -beyond)) ** (1 / slope)
    return order[: int(min(k, len(x))) if k >= 1 else 1]  # what is no number leaves one


def mirostat_2(x: Doubles, s: Settings) -> Places:
    """Those with a surprise of at most mu bits; at least the likeliest."""
    few = np.flatnonzero(-log_shares(x) / np.log(2) <= s.mirostat_mu)
    return few if len(few) else ranked(x)[:1]


KEEP = {step: globals()[step] for step in STEPS if step != "temperature"}


def left(x: npt.NDArray[np.float32], steps: int, settings: Settings) -> tuple[Places, Doubles]:
    """The tokens that steps leave of a row, in order of id, and their logits. x  # [vocab]"""
    ids = np.flatnonzero(x > -np.finfo(np.float32).max)  # what is not allowed has no part in any sum
    if not len(ids):
        ids = np.zeros(1, np.int64)
    values = x[ids].astype(np.float64)
    for step in unpacked(steps):
        if step == "temperature":
            values = temper(values, settings)
            places = np.flatnonzero(values > -np.inf)
        else:
            places = np.sort(KEEP[step](values, settings))
        ids, values = ids[places], values[places]
    return ids, values
