"""DRY: what would continue a repetition is made less likely, the longer that is; llama.cpp's rules.

The penalty of a token that would make the last tokens repeat what stood before it: multiplier * base ^ (length -
allowed length), length being that of the repetition so far. A repetition does not reach over a sequence breaker: its
first token and those that must follow it. Source: llama_sampler_dry_apply of llama.cpp's src/llama-sampling.cpp. Knows
tokens, no text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from octavo.core.request import SamplingParams
from octavo.program.batch import Floats, Ints

LARGEST_LOG = 88.7228391  # of float32: exponents end there
LARGEST = -1e30  # penalty: unlikely, and yet not forbidden


class Dry:
    """One sequence's rules. breakers: lists of tokens, the first with what must follow it to be a breaker."""

    def __init__(self, sampling: SamplingParams, breakers: Sequence[Sequence[int]]) -> None:
        self._multiplier, self._base = sampling.dry_multiplier, sampling.dry_base
        self._allowed, self._last = sampling.dry_allowed_length, sampling.dry_penalty_last_n
        tails: dict[int, list[list[int]]] = {}
        for head, *tail in breakers:
            tails.setdefault(head, []).append(tail)
        self._tails = tails
        self._heads = np.array(sorted(tails), np.int32)
        self._single = np.array(sorted(head for head, given in tails.items() if [] in given), np.int32)
        # longer repetitions weigh no more than this one
        self._steepest = int(LARGEST_LOG / math.log(self._base)) if self._base > 1.000001 else 0

    def penalties(self, tokens: Ints) -> tuple[Ints, Floats]:
        """Distinct tokens and what is added to their logits, after these tokens."""
        window = tokens if self._last < 0 else tokens[max(0, len(tokens) - self._last) :]
        reach = self._reach(window)
        if len(window) <= self._allowed or reach < self._allowed:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        lengths = _repeated(window, min(reach, self._allowed + self._steepest))
        places = np.flatnonzero(lengths >= self._allowed)
        ids, which = np.unique(window[places + 1], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, which, lengths[places])
        open_ = ~np.isin(ids, self._single)
        exponents = (longest[open_] - self._allowed).astype(np.float64)
        penalties = np.maximum(-self._multiplier * self._base**exponents, LARGEST)
        return ids[open_].astype(np.int32), penalties.astype(np.float32)

    def _reach(self, window: Ints) -> int:
        """How many of the last tokens stand behind the last breaker."""
        count = len(window)
        for place in np.flatnonzero(np.isin(window, self._heads))[::-1].tolist():
            behind = window[place + 1 :].tolist()
            fitting = [len(tail) for tail in self._tails[int(window[place])] if behind[: len(tail)] == tail]
            if fitting:
                return count - 1 - int(place) - max(fitting)
        return count


def _repeated(window: Ints, most: int) -> npt.NDArray[np.int64]:
    """How many tokens up to each place, the last left out, are the last ones of the window; at most `most`."""
    last = len(window) - 1
    lengths = np.zeros(last, np.int64)
    places = np.arange(last)
    for length in range(1, most + 1):
        places = places[places - length + 1 >= 0]
        places = places[window[places - length + 1] == window[last - length + 1]]
        if not len(places):
            break
        lengths[places] = length
    return lengths
