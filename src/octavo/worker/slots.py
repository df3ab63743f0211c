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
from octavo.program.batch import EXTRAS, Floats, Ints
from octavo.program.samplers import packed, steps_of
from octavo.worker.dry import Dry


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What is added to the logits of some tokens: distinct ids, values beside them."""

    ids: Ints
    values: Floats

    def without(self, banned: Ints) -> Bias:
        """The same, with -inf on some tokens."""
        rest = ~np.isin(self.ids, banned)
        ids, values = self.ids[rest], self.values[rest]
        return Bias(np.concatenate([ids, banned]), np.concatenate([values, np.full(len(banned), -np.inf, np.float32)]))


NO_BIAS = Bias(np.zeros(0, np.int32), np.zeros(0, np.float32))


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
    any_stepped: bool
    any_dry: bool
    any_named: bool


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
        self.named: list[Ints | None] = [None] * slots  # the alternatives, where they are not the likeliest
        self.naming: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # `named` is there
        self.prompt_top: Ints = np.full(slots, -1, np.int32)  # the same for prompt tokens
        self.penalized: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # some penalty applies
        self.repeat_last: Ints = np.zeros(slots, np.int32)  # so many of the last tokens are penalized
        self.steps: npt.NDArray[np.int64] = np.zeros(slots, np.int64)
        self.extras: Floats = np.zeros((slots, len(EXTRAS)), np.float32)
        self.mirostat: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)
        self.tau: Floats = np.zeros(slots, np.float32)
        self.eta: Floats = np.zeros(slots, np.float32)
        self.dry: list[Dry | None] = [None] * slots
        self.dried: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # `dry` is there
        self.biased: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # `bias` is not empty
        self.masked_until: Ints = np.zeros(slots, np.int32)  # below this length the ends are masked; 0: never
        self.second: Ints = np.zeros(slots, np.int32)  # where the tokens of the second type begin
        self.any_second = False  # whether a sequence ever had any
        self.bias: list[Bias | None] = [None] * slots
        self.worded: npt.NDArray[np.bool_] = np.zeros(slots, np.bool_)  # `bad_words` is not empty
        self.bad_words: list[list[Ints]] = [[] for _ in range(slots)]
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
        self.prompt_lens[slot] = len(request.prompt) - request.drawn
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
        self.top[slot] = -1 if sampling.alternatives is None else sampling.alternatives
        named = sampling.logprob_token_ids
        self.named[slot] = None if named is None else np.array(named, np.int32)
        self.naming[slot] = named is not None
        self.prompt_top[slot] = -1 if sampling.prompt_logprobs is None else sampling.prompt_logprobs
        self.penalized[slot] = sampling.penalized
        self.repeat_last[slot] = sampling.repeat_last_n if sampling.repeat_last_n >= 0 else self.max_len
        self._step(start)
        bias = dict(sampling.logit_bias or {})
        self.bias[slot] = _bias(bias)
        self.biased[slot] = self.bias[slot] is not None
        self.bad_words[slot] = [np.array(word, np.int32) for word in request.bad_words]
        self.worded[slot] = bool(request.bad_words)
        self._mask(slot, request, bias)

    def _step(self, start: Start) -> None:
        """What llama.cpp's samplers need of a sequence."""
        slot, sampling = start.slot, start.request.sampling
        self.steps[slot] = packed(steps_of(sampling))
        mu = 2 * sampling.mirostat_tau if start.mu is None else start.mu
        columns = [getattr(sampling, name) for name in EXTRAS if name != "mirostat_mu"]
        self.extras[slot] = [*columns, mu]
        self.mirostat[slot] = bool(self.steps[slot] and sampling.mirostat)
        self.tau[slot], self.eta[slot] = sampling.mirostat_tau, sampling.mirostat_eta
        self.dry[slot] = Dry(sampling, start.request.dry_breakers) if sampling.dry else None
        self.dried[slot] = sampling.dry

    def surprised(self, slot: Ints, surprise: Floats) -> None:
        """What was drawn for these slots, so that mirostat comes nearer to its tau. surprise  # [S] bits"""
        error = np.where(self.mirostat[slot], surprise - self.tau[slot], np.float32(0))
        self.extras[slot, EXTRAS.index("mirostat_mu")] -= self.eta[slot] * error

    def mu(self, slot: int) -> float | None:
        """Mirostat's state."""
        return float(self.extras[slot, EXTRAS.index("mirostat_mu")]) if self.mirostat[slot] else None

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
            any_stepped=bool(self.steps[slot].any()),
            any_dry=bool(self.dried[slot].any()),
            any_named=bool(self.naming[slot].any()),
            any_biased=bool((self.biased[slot] | self.worded[slot]).any() or self.masked_until[slot].any()),
        )

    def free(self, slot: int) -> None:
        """Leave a row; its arrays are read by nobody until the next start."""
        self.lengths[slot] = self.table_lens[slot] = 0
        self.bias[slot] = self.masked_bias[slot] = None
        self.bad_words[slot] = []
        self.dry[slot] = self.named[slot] = None
        self.mirostat[slot] = False

    def bias_at(self, slot: int, position: int) -> Bias:
        """What the token drawn for `position` of a slot's sequence is biased by."""
        bias = (self.masked_bias if position < self.masked_until[slot] else self.bias)[slot] or NO_BIAS
        generated = self.tokens[slot, self.prompt_lens[slot] : position]
        banned = {int(word[-1]) for word in self.bad_words[slot] if _ends_with(generated, word[:-1])}
        return bias.without(np.array(sorted(banned), np.int32)) if banned else bias

    def forbids(self, slot: int, token: int, position: int) -> bool:
        """Whether the request forbids this token at a position of its sequence."""
        if not (self.worded[slot] or position < self.masked_until[slot]):
            return False
        bias = self.bias_at(slot, position)
        return bool(np.isneginf(bias.values[bias.ids == token]).any())

    def takes_what_is_forced(self, slot: int) -> bool:
        """Whether a token without alternative need not be drawn: nobody asks how likely it was, nor forbids it."""
        free = not (self.biased[slot] or self.worded[slot] or self.masked_until[slot] or self.mirostat[slot])
        return free and bool(self.top[slot] < 0)

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
        self.masked_bias[slot] = _bias(bias | dict.fromkeys(ends, -np.inf)) if wanted else None


def _bias(values: dict[int, float]) -> Bias | None:
    """None where there is nothing."""
    ids = np.array(sorted(values), np.int32)
    return Bias(ids, np.array([values[token] for token in ids.tolist()], np.float32)) if len(ids) else None


def _ends_with(tokens: Ints, wanted: Ints) -> bool:
    return len(wanted) == 0 or (len(wanted) <= len(tokens) and np.array_equal(tokens[-len(wanted) :], wanted))
