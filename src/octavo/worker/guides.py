"""What running sequences may draw next, by their grammars and allowed tokens, and how the grammars advance.

Invariant: after `start` and after each `accept`, the mask of a guided slot is that of its next token. A sequence that
begins again, after a preemption, replays its tokens. A token that the mask alone decides is appended without being
drawn: any draw would have given it. Knows no schedule and no executor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from octavo.core.plan import Start
from octavo.program.batch import NO_MASKS, HeadRows, Ints
from octavo.worker.grammars import Grammars

if TYPE_CHECKING:
    from llguidance import LLMatcher

MOST_FORCED = 256  # tokens appended behind one drawn
THEIR_MARK = "<non-verbose/>"  # behind llguidance's errors
NO_GRAMMARS = "grammar: this engine has no tokenizer to match it with"
DEAD = "bad_words, allowed_token_ids, min_tokens or other limits leave none of the tokens that it allows here"


@dataclass(slots=True, eq=False)
class Advance:
    """What one drawn token led to: itself and the forced ones, whether the text is at its end, or why it failed."""

    tokens: list[int]
    stopped: bool = False
    failed: str | None = None


class Guides:
    """The masks of `slots` slots over a vocabulary of `vocab`.

    grammars None: no request has a grammar. jump: append forced tokens at once.
    """

    def __init__(self, grammars: Grammars | None, slots: int, vocab: int, *, jump: bool = True) -> None:
        self.grammars = grammars
        self._shape = slots, (vocab + 31) // 32
        self._jump = jump
        self._matchers: dict[int, LLMatcher] = {}
        self._allowed: dict[int, Ints] = {}  # masks of slots whose request lists its tokens
        self._masks: Ints = NO_MASKS  # [slots, words] once there is one

    @staticmethod
    def size_bytes(slots: int, vocab: int) -> int:
        """Memory of the masks when each slot has both kinds."""
        return 2 * 4 * slots * ((vocab + 31) // 32)

    @property
    def any(self) -> bool:
        """Whether some sequence has a mask."""
        return bool(self._matchers or self._allowed)

    def start(self, start: Start) -> None:
        """A sequence takes a slot."""
        slot, request = start.slot, start.request
        listed = request.sampling.allowed_token_ids
        if not request.grammar and listed is None:
            return
        if not len(self._masks):
            self._masks = np.full(self._shape, -1, np.int32)
        if listed is not None:
            self._masks[slot] = self._allowed[slot] = _bits(listed, self._shape[1])
        if request.grammar:
            assert self.grammars is not None, NO_GRAMMARS
            matcher = self.grammars.matcher(request.grammar, request.grammar_field)
            for token in start.tokens[len(request.prompt) :]:
                matcher.consume_token(token)
            self._matchers[slot] = matcher
            self._fill(slot)

    def free(self, slot: int) -> None:
        """The slot's sequence is gone."""
        self._matchers.pop(slot, None)
        self._allowed.pop(slot, None)

    def masked(self, head: HeadRows, rows: np.ndarray, slots: Ints) -> HeadRows:
        """The head with the masks of its drawn rows, which belong to `slots`."""
        guided = np.isin(slots, [*self._matchers, *self._allowed])
        if not guided.any():
            return head
        mask = np.full(len(head.rows), -1, np.int32)
        mask[rows[guided]] = slots[guided]
        return replace(head, mask=mask, masks=self._masks)

    def accept(self, slot: int, token: int, room: int, *, jump: bool, banned: bool = False) -> Advance | None:
        """Take in a drawn token; at most `room` may follow it. None: the slot has no grammar.

        banned: the request forbids this token. Where nothing is left, any token is drawn.
        """
        matcher = self._matchers.get(slot)
        if matcher is None:
            return None
        tokens = [token]
        failed = matcher.is_error()  # when it said what may come, so that anything was drawn
        allowed = self._masks[slot, token // 32] >> token % 32 & 1 and not banned
        if not allowed or not matcher.consume_token(token):
            return Advance(tokens, failed=_complexity(matcher) if failed or allowed else DEAD)
        self._fill(slot)
        most = 1 + min(room, MOST_FORCED) if jump and self._jump else 1
        while len(tokens) < most and not matcher.is_stopped():
            only = _only(self._masks[slot])
            if only < 0:
                break
            matcher.consume_token(only)
            tokens.append(only)
            self._fill(slot)
        if matcher.is_error():
            return Advance(tokens, failed=_complexity(matcher))
        return Advance(tokens, stopped=matcher.is_stopped())

    def _fill(self, slot: int) -> None:
        """What may come next. A matcher that failed allows nothing; `accept` says so."""
        mask = self._masks[slot]
        self._matchers[slot].unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if slot in self._allowed:
            mask &= self._allowed[slot]


def _complexity(matcher: LLMatcher) -> str:
    """Why a matcher failed, in a line."""
    reason = " ".join(matcher.get_error().replace(THEIR_MARK, "").split())
    return f"it is too complex here: {reason[:300]}"


def _bits(tokens: list[int], words: int) -> Ints:
    """The mask that allows these tokens."""
    bits = np.zeros(words * 32, np.bool_)
    bits[tokens] = True
    return np.packbits(bits, bitorder="little").view(np.int32)


def _only(mask: Ints) -> int:
    """The one token a mask allows, or -1."""
    words = np.flatnonzero(mask)
    if len(words) != 1:
        return -1
    word = int(mask[words[0]]) & 0xFFFFFFFF
    return int(words[0]) * 32 + word.bit_length() - 1 if word & (word - 1) == 0 else -1
