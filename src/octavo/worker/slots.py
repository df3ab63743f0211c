"""The live sequences as a struct of arrays: one permanent row per slot, so a step's batch is a few array reads.

Invariant: of each cache group's table in tables[s] the first table_lens[s] entries name the pages of the sequence in
slot s, or those it has given back, which nobody reads any more; tokens[s, :lengths[s]] are its prompt and drawn tokens.
Knows no page's content, no schedule and no executor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.core.layout import pages_for
from octavo.core.plan import Start
from octavo.core.request import Request
from octavo.program.batch import Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What is added to the logits of some tokens. ids ascending, values beside them."""

    ids: Ints
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """How the sequences of some slots are drawn from, beside what each token changes. Columns as in HeadRows, [S].

    The flags say whether any of them is concerned, so that most steps look no further.
    """

    top: Ints
    prompt_top: Ints
    temperature: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats
    presence: Floats
    frequency: Floats
    repetition: Floats
    seed: npt.NDArray[np.uint64]
    prompt_lens: Ints
    any_reports: bool
    any_penalized: bool
    any_biased: bool


class Slots:
    """`slots` rows of at most `max_len` tokens over a vocabulary of `vocab`; the arrays are indexed by slot.

    groups: cache groups, see KvLayout.
    """

    def __init__(self, slots: int, max_len: int, vocab: int, groups: int = 1) -> None:
        self.slots, self.max_len, self.vocab = slots, max_len, vocab
        self.tokens: Ints = np.zeros((slots, max_len), np.int32)  # untouched rows take no memory
        self.lengths: Ints = np.zeros(slots, np.int32)
        self.prompt_lens: Ints = np.zeros(slots, np.int32)
        self.groups = groups
        self.tables: Ints = np.zeros((slots, groups * pages_for(max_len)), np.int32)
        self.table_lens: Ints = np.zeros(slots, np.int32)
        self.temperature: Floats = np.zeros(slots, np.float32)
        self.top_k: Ints = np.zeros(slots, np.int32)
        self.top_p: Floats = np.ones(slots, np.float32)
        self.min_p: Floats = np.zeros(slots, np.float32)
        self.presence: Floats = np.zeros(slots, np.float32)
        self.frequency: Floats = np.zeros(slots, np.float32)
        self.repetition: Floats = np.ones(slots, np.float32)
        self.seed: npt.NDArray[np.uint64] = np.zeros(slots, np.uint64)
        self.top: Ints = np.full(slots, -1, np.int32)  # alternatives to report, -1: no log-probabilities
        self.prompt_top: Ints = np.full(slots, -1, np.int32)  # the same for prompt tokens
        self.penalized: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # some penalty applies
        self.biased: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # `bias` is not empty
        self.masked_until: Ints = np.zeros(slots, np.int32)  # below this length the ends are masked; 0: never
        self.second: Ints = np.zeros(slots, np.int32)  # where the tokens of the second type begin
        self.any_second = False  # whether a sequence ever had any
        self.bias: list[Bias | None] = [None] * slots
        self.masked_bias: list[Bias | None] = [None] * slots  # `bias`, and -inf on what would end the text
        self._drawing: tuple[bytes, Drawing] | None = None  # the last one asked for, until a slot is filled anew

    @staticmethod
    def size_bytes(slots: int, max_len: int, groups: int = 1) -> int:
        """Memory of this many slots, when all rows are touched."""
        return slots * (4 * max_len + 4 * groups * pages_for(max_len) + 128)

    def start(self, start: Start) -> None:
        """Fill a slot's row for a sequence that begins, or begins again."""
        self._drawing = None
        slot, request, sampling = start.slot, start.request, start.request.sampling
        count = len(start.tokens)
        assert 0 < count <= self.max_len
        self.tokens[slot, :count] = start.tokens
        self.lengths[slot] = count
        self.prompt_lens[slot] = len(request.prompt)
        self.table_lens[slot] = 0
        self.second[slot] = request.second or self.max_len
        self.any_second |= request.second > 0
        self.temperature[slot] = 0 if sampling.greedy else sampling.temperature
        self.top_k[slot] = max(sampling.top_k, 0)
        self.top_p[slot] = sampling.top_p
        self.min_p[slot] = sampling.min_p
        self.presence[slot] = sampling.presence_penalty
        self.frequency[slot] = sampling.frequency_penalty
        self.repetition[slot] = sampling.repetition_penalty
        self.seed[slot] = request.seed & 0xFFFFFFFFFFFFFFFF
        self.top[slot] = -1 if sampling.logprobs is None else sampling.logprobs
        self.prompt_top[slot] = -1 if sampling.prompt_logprobs is None else sampling.prompt_logprobs
        self.penalized[slot] = (
            sampling.presence_penalty != 0 or sampling.frequency_penalty != 0 or sampling.repetition_penalty != 1
        )
        bias = dict(sampling.logit_bias or {})
        self.bias[slot] = self._bias(bias)
        self.biased[slot] = bool(bias)
        self._mask(slot, request, bias)

    def drawing(self, slot: Ints) -> Drawing:
        """The columns of these slots, in this order. The same slots step after step, as in decoding, cost nothing."""
        key = slot.tobytes()
        if self._drawing is None or self._drawing[0] != key:
            self._drawing = key, self._columns(slot)
        return self._drawing[1]

    def _columns(self, slot: Ints) -> Drawing:
        prompt_top = self.prompt_top[slot]
        return Drawing(
            top=self.top[slot],
            prompt_top=prompt_top,
            temperature=self.temperature[slot],
            top_k=self.top_k[slot],
            top_p=self.top_p[slot],
            min_p=self.min_p[slot],
            presence=self.presence[slot],
            frequency=self.frequency[slot],
            repetition=self.repetition[slot],
            seed=self.seed[slot],
            prompt_lens=self.prompt_lens[slot],
            any_reports=bool((prompt_top >= 0).any()),
            any_penalized=bool(self.penalized[slot].any()),
            any_biased=bool(self.biased[slot].any() or self.masked_until[slot].any()),
        )

    def free(self, slot: int) -> None:
        """Leave a row; its arrays are read by nobody until the next start."""
        self.lengths[slot] = self.table_lens[slot] = 0
        self.bias[slot] = self.masked_bias[slot] = None

    def append_pages(self, slot: int, pages: tuple[int, ...]) -> None:
        """Put page ids at the end of a slot's tables, row by row: one for each group."""
        have, rows = int(self.table_lens[slot]), len(pages) // self.groups
        room = pages_for(self.max_len)
        for group in range(self.groups):
            at = group * room + have
            self.tables[slot, at : at + rows] = pages[group :: self.groups]
        self.table_lens[slot] = have + rows

    def _mask(self, slot: int, request: Request, bias: dict[int, float]) -> None:
        """What `min_tokens` forbids: the tokens that would end the text, while too few are generated."""
        sampling = request.sampling
        ends = set(sampling.stop_token_ids or ())
        if not sampling.ignore_eos:
            ends.update(request.eos_ids)
        ends = {token for token in ends if 0 <= token < self.vocab}
        wanted = sampling.min_tokens > 0 and bool(ends)
        self.masked_until[slot] = min(len(request.prompt) + sampling.min_tokens, 2**31 - 1) if wanted else 0
        self.masked_bias[slot] = self._bias(bias | dict.fromkeys(ends, -np.inf)) if wanted else None

    @staticmethod
    def _bias(values: dict[int, float]) -> Bias | None:
        if not values:
            return None
        ids = sorted(values)
        return Bias(np.array(ids, np.int32), np.array([values[token] for token in ids], np.float32))
