"""One step's input and output: flat arrays, built by the worker, read by an executor. Always an argument.

Drawing a token from a row of logits, the same in every executor:
  1. raw log-probabilities, for what is reported: logits - logsumexp(logits).
  2. add `bias`; for tokens of the row's history: repetition penalty (divide positive logits by it, multiply negative
     ones), then subtract frequency_penalty * count, then presence_penalty, both over generated tokens only. Each is
     one float32 operation, as is what `dry` adds then; the result is clamped to finite numbers. Tokens that the row's
     mask does not allow then become the least number: their share is 0.
  3. temperature 0: the largest, lowest id on a tie. Otherwise p ~ exp((x - max x) / temperature); keep
     min_p: tokens with p >= min_p * max p; of those top_k: the k largest, lowest ids first on a tie; of those top_p:
     the fewest likeliest tokens whose share reaches top_p. A row with `steps` is drawn from what samplers.py leaves.
  4. take, in order of token id, the first kept token whose cumulative share exceeds u in [0, 1), or the last one of
     positive share if rounding leaves none; u = (w >> 8) * 2^-24, w the first of the four words that Philox4x32-10
     gives for the key (seed's low 32 bits, its high 32) and the counter (position's low 32 bits, its high 32, 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

STEPS = ("temperature", "top_n_sigma", "min_p", "top_k", "typical_p", "top_p", "xtc", "mirostat", "mirostat_2")
STEP_BITS = 4  # of one step in a row's `steps`: 1 + its place in STEPS; 0 behind the last
EXTRAS = ("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent",
          "mirostat_mu")  # fmt: skip

NO_MASK: Ints = np.zeros(0, np.int32)
NO_VALUES: Floats = np.zeros(0, np.float32)
NO_STEPS = np.zeros(0, np.int64)
NO_EXTRAS: Floats = np.zeros((0, len(EXTRAS)), np.float32)
NO_MASKS: Ints = np.zeros((0, 0), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class HeadRows:
    """Rows whose logits are wanted, H of them, with how to draw from each.

    `target` -1: draw; otherwise report on that token instead (prompt log-probabilities). `top` -1: no log-probabilities
    wanted; otherwise the number of alternatives: the likeliest, or those `named`. `position` is the index of the drawn
    token in its sequence. The history of row i is history[history_starts[i]:history_starts[i + 1]], its first
    prompt_lens[i] tokens being the prompt; it is empty where no penalty applies. Likewise bias_ids and bias_values by
    bias_starts, and `named` by named_starts: `top` of them, or none.

    A row that draws may take only the tokens whose bits are set in masks[mask]: bit t % 32 of word t // 32; -1: all.
    Some token must be allowed that the bias leaves finite. Without masks `mask` is not looked at.

    steps: how a row is drawn that asks for one of llama.cpp's samplers: STEPS, the first in the lowest STEP_BITS; 0: as
    above. What they need beside the columns is in `extras`. What DRY takes away is added by dry_ids and dry_values, as
    bias is. Where no row has any of it these arrays are empty.
    """

    rows: Ints  # [H] index into the step's tokens, ascending
    target: Ints  # [H]
    top: Ints  # [H]
    temperature: Floats  # [H]
    top_k: Ints  # [H] 0: all
    top_p: Floats  # [H] 1: all
    min_p: Floats  # [H] 0: all
    presence: Floats  # [H]
    frequency: Floats  # [H]
    repetition: Floats  # [H] 1: none
    seed: npt.NDArray[np.uint64]  # [H]
    position: npt.NDArray[np.int64]  # [H]
    history_starts: npt.NDArray[np.int64]  # [H + 1]
    history: Ints
    prompt_lens: Ints  # [H]
    bias_starts: npt.NDArray[np.int64]  # [H + 1]
    bias_ids: Ints
    bias_values: Floats
    mask: Ints = field(default_factory=lambda: NO_MASK)  # [H]
    masks: Ints = field(default_factory=lambda: NO_MASKS)  # [M, words of the vocabulary], or [0, 0]
    steps: npt.NDArray[np.int64] = field(default_factory=lambda: NO_STEPS)  # [H], or [0]
    extras: Floats = field(default_factory=lambda: NO_EXTRAS)  # [H, len(EXTRAS)], or [0, ..]
    dry_starts: npt.NDArray[np.int64] = field(default_factory=lambda: NO_STEPS)  # [H + 1], or [0]
    dry_ids: Ints = field(default_factory=lambda: NO_MASK)
    dry_values: Floats = field(default_factory=lambda: NO_VALUES)
    named_starts: npt.NDArray[np.int64] = field(default_factory=lambda: NO_STEPS)  # [H + 1], or [0]
    named: Ints = field(default_factory=lambda: NO_MASK)
    given: Ints = field(default_factory=lambda: NO_MASK)  # [H] place in Drawn.logits, -1: drawn from; or [0]: all are


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """T tokens of R runs. The rows of run r are starts[r]:starts[r + 1], at consecutive positions.

    Keys and values of position p of run r in cache group g lie in page tables[slots[r], g * P + p // 32], P being the
    pages of one table. Entries of pages that no token of the run sees mean nothing. kv_lens[r] is the position after
    the run's last. Slots are distinct.
    """

    ids: Ints  # [T]
    positions: Ints  # [T]
    starts: Ints  # [R + 1]
    kv_lens: Ints  # [R]
    slots: Ints  # [R]
    tables: Ints  # [slots, groups * pages per sequence], C order
    head: HeadRows
    types: Ints | None = None  # [T] of each token, see Embed; None: all 0


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What the head gave, one entry for each of its rows; L is the largest `top` of the batch (at least 0)."""

    tokens: Ints  # [H] drawn token, or the target
    logprobs: Floats  # [H] raw log-probability of that token; 0 where top is -1
    ranks: Ints  # [H] 1 + number of tokens with a larger raw logit; 0 where top is -1
    top_ids: Ints  # [H, L] likeliest first, lowest id first on a tie, or as named; -1 beyond the row's `top`
    top_logprobs: Floats  # [H, L] 0 beyond the row's `top`
    surprise: Floats  # [H] of a row drawn by steps: -log2 of the token's share among those that were left; else 0
    bad: npt.NDArray[np.uint8]  # [H] 1: a NaN or +-infinity among the row's logits that are looked at; the rest is void
    logits: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # raw, of given rows: the rest is void
