"""Drawing a token from a row of logits: the definition that batch.py describes, one plain function for each step.

Bias and penalties are single float32 operations, so that every executor has the same bits before it compares; sums
and exponentials are float64. Knows rows of logits, not how they came to be.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from octavo.program import samplers
from octavo.program.batch import Drawn, Floats, HeadRows, Ints

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LARGEST = np.finfo(np.float32).max
WORD = 2**32 - 1


def philox(seed: int, position: int) -> tuple[int, int, int, int]:
    """Four random words. Key: the seed's low and high word; counter: the position's low and high word, 0, 0."""
    return philox4x32((seed & WORD, seed >> 32 & WORD), (position & WORD, position >> 32 & WORD, 0, 0))


def philox4x32(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 on words of 32 bits (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = product1 >> 32 ^ c1 ^ k0, product1 & WORD, product0 >> 32 ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the token at `position`: 24 bits, exact in float32."""
    return (philox(seed, position)[0] >> 8) * 2.0**-24


def second_uniform(seed: int, position: int) -> float:
    """Another such number for the same token, of the second word: whether XTC takes part."""
    return (philox(seed, position)[1] >> 8) * 2.0**-24


def adjusted(logits: Floats, head: HeadRows, row: int) -> Floats:
    """One row's logits after bias, penalties and mask. logits, result  # [vocab]"""
    x = np.array(logits, np.float32)
    span = slice(head.bias_starts[row], head.bias_starts[row + 1])
    x[head.bias_ids[span]] += head.bias_values[span]
    history = head.history[head.history_starts[row] : head.history_starts[row + 1]]
    seen = np.unique(history)
    penalty = head.repetition[row]
    with np.errstate(all="ignore"):
        x[seen] = np.where(x[seen] > 0, x[seen] / penalty, x[seen] * penalty)
    generated, counts = np.unique(history[head.prompt_lens[row] :], return_counts=True)
    x[generated] -= head.frequency[row] * counts.astype(np.float32)
    x[generated] -= head.presence[row]
    if len(head.dry_starts):
        span = slice(head.dry_starts[row], head.dry_starts[row + 1])
        x[head.dry_ids[span]] += head.dry_values[span]
    x = np.clip(x, -LARGEST, LARGEST)
    if head.masks.shape[1] and head.mask[row] >= 0:
        bits = np.unpackbits(head.masks[head.mask[row]].view(np.uint8), bitorder="little")
        x[bits[: len(x)] == 0] = -LARGEST
    return x


def shares(x: Floats, temperature: float) -> Doubles:
    """Probabilities at a temperature above 0. x, result  # [vocab]"""
    likeness = np.exp((x.astype(np.float64) - float(x.max())) / float(temperature))
    return np.asarray(likeness / likeness.sum(), np.float64)


def kept(x: Floats, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Mask:
    """Which tokens may be drawn. x, result  # [vocab]"""
    mask = np.zeros(len(x), np.bool_)
    order = np.argsort(-x, kind="stable")  # likeliest first, lowest id first on a tie
    if temperature == 0:
        mask[order[0]] = True
        return mask
    ranked = shares(x, temperature)[order]
    count = int(np.count_nonzero(ranked >= float(min_p) * ranked[0]))
    if top_k > 0:
        count = min(count, int(top_k))
    if top_p < 1:
        sums = np.cumsum(ranked[:count])
        count = int(np.searchsorted(sums, float(top_p) * sums[-1])) + 1
    mask[order[:count]] = True
    return mask


def probabilities(x: Floats, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Doubles:
    """The distribution that a token is drawn from: shares of the kept tokens. x, result  # [vocab]"""
    mask = kept(x, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if temperature == 0:
        return mask.astype(np.float64)
    weights = np.where(mask, shares(x, temperature), 0.0)
    return np.asarray(weights / weights.sum(), np.float64)


def choose(distribution: Doubles, u: float) -> int:
    """The first token, in order of id, whose cumulative share exceeds u."""
    index = int(np.searchsorted(np.cumsum(distribution), u, side="right"))
    return min(index, int(np.flatnonzero(distribution)[-1]))  # a sum may end a rounding short of 1


def stepped(x: Floats, head: HeadRows, row: int) -> Doubles:
    """The distribution that a row with `steps` is drawn from. x  # [vocab] adjusted"""
    chance = second_uniform(int(head.seed[row]), int(head.position[row]))
    ids, values = samplers.left(x, int(head.steps[row]), samplers.Settings.of(head, row, len(x), chance))
    distribution = np.zeros(len(x))
    distribution[ids] = np.exp(samplers.log_shares(values))
    return distribution


def token(logits: Floats, head: HeadRows, row: int) -> tuple[int, float]:
    """The token drawn from one row of finite logits, and its surprise where it was drawn by steps. [vocab]"""
    x = adjusted(logits, head, row)
    u = uniform(int(head.seed[row]), int(head.position[row]))
    if len(head.steps) and head.steps[row]:
        distribution = stepped(x, head, row)
        drawn = choose(distribution, u)
        return drawn, float(-np.log2(distribution[drawn]))
    distribution = probabilities(
        x,
        temperature=float(head.temperature[row]),
        top_k=int(head.top_k[row]),
        top_p=float(head.top_p[row]),
        min_p=float(head.min_p[row]),
    )
    return choose(distribution, u), 0.0


def log_probabilities(logits: Floats) -> Doubles:
    """logits - logsumexp(logits). [vocab]"""
    x = logits.astype(np.float64)
    top = x.max()
    return np.asarray(x - top - np.log(np.exp(x - top).sum()), np.float64)


def draw(logits: Floats, head: HeadRows) -> Drawn:
    """Draw from each row and report what it asks for. logits  # [H, vocab]"""
    rows = len(logits)
    width = max(0, int(head.top.max(initial=-1)))
    drawn = Drawn(
        tokens=np.zeros(rows, np.int32),
        logprobs=np.zeros(rows, np.float32),
        ranks=np.zeros(rows, np.int32),
        top_ids=np.full((rows, width), -1, np.int32),
        top_logprobs=np.zeros((rows, width), np.float32),
        bad=np.zeros(rows, np.uint8),
        surprise=np.zeros(rows, np.float32),
    )
    for row in range(rows):
        draw_row(drawn, row, logits[row], logits[row], head)
    return drawn


def draw_row(drawn: Drawn, row: int, raw: Floats, logits: Floats, head: HeadRows) -> None:
    """Fill in one row: a token of `logits`, and what is reported of `raw`. raw, logits  # [vocab]"""
    drawn.logprobs[row] = drawn.ranks[row] = drawn.surprise[row] = drawn.top_logprobs[row] = 0
    drawn.top_ids[row] = -1
    drawn.bad[row] = not np.isfinite(raw).all()
    if drawn.bad[row]:
        return
    target, top = int(head.target[row]), int(head.top[row])
    drawn.tokens[row] = target
    if target < 0:
        drawn.tokens[row], drawn.surprise[row] = token(logits, head, row)
    if top < 0:
        return
    logprobs = log_probabilities(raw)
    drawn.logprobs[row] = logprobs[drawn.tokens[row]]
    drawn.ranks[row] = 1 + np.count_nonzero(raw > raw[drawn.tokens[row]])
    count = min(top, len(raw))
    named: Ints | list[int] = head.named[slice(*head.named_starts[row : row + 2])] if len(head.named_starts) else []
    drawn.top_ids[row, :count] = named if len(named) else np.argsort(-raw, kind="stable")[:count]
    drawn.top_logprobs[row, :count] = logprobs[drawn.top_ids[row, :count]]
