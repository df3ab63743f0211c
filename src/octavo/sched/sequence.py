"""A request on its way: the tokens it has, and how many of them have keys and values in pages.

Owns the state of one sequence and the rules by which it ends. Invariant: 0 <= computed <= len(tokens), its blocks cover
the computed positions, and it holds blocks and a slot only while it runs. There is no prefill and no decode: computed
catches up with the tokens. (Drafts, when they come, stand behind the tokens: `pending` counts them in.) Knows no pool,
no queue and no budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from octavo.cache.hash import begun_names, block_hashes, root_hash
from octavo.core.layout import PAGE, pages_for
from octavo.core.plan import TokenLogprob
from octavo.core.request import Request
from octavo.sched.repetition import Repetition

REPEATED = "repetition_detected"  # the stop reason of an answer that only repeats itself


class State(Enum):
    """Where a sequence is. One that was preempted is waiting again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True, eq=False)
class Sequence:
    """Made by the scheduler when a request is accepted, and changed by it alone."""

    request: Request
    order: tuple[int, int]  # the smaller goes first; see queue.place
    limit: int  # length at which it ends, prompt included
    tokens: list[int]  # prompt, then what was generated
    ends: frozenset[int]  # tokens that end it: stop_token_ids, and the model's own unless ignored
    computed: int = 0  # leading tokens whose keys and values exist
    granted: int = 0  # tokens the plan under way computes
    blocks: list[int] = field(default_factory=list)  # its table, see cache/tables.py: rows of pages, one of each group
    hashes: list[bytes] = field(default_factory=list)  # of the leading full pages, as far as they were wanted
    sealed: int = 0  # leading rows that were found or offered to the prefix index
    slot: int = -1
    state: State = State.WAITING
    preemptions: int = 0
    cached: int = -1  # prompt tokens found at the first admission, -1 before it
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # kept until the first token is drawn
    mu: float | None = None  # of mirostat, once a token was drawn
    repetition: Repetition | None = None  # of what was generated, where the request looks for it

    def __post_init__(self) -> None:
        wanted = self.request.sampling.repetition_detection
        if wanted is None:
            return
        self.repetition = Repetition(wanted)
        for token in self.request.prompt[len(self.request.prompt) - self.request.drawn :]:
            self.repetition.add(token)

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be drawn."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of its prompt are wanted."""
        return self.request.sampling.prompt_logprobs is not None

    @property
    def whole(self) -> bool:
        """Whether all tokens of its prompt must be computed: something is owed of each, or the request wants it so."""
        pooling, sampling = self.request.pooling, self.request.sampling
        return self.scored or sampling.skip_reading_prefix_cache or (pooling is not None and pooling.of_tokens)

    def heads(self, first: int, count: int) -> int:
        """Rows whose logits are wanted, of `count` from position `first` on: for prompt tokens, and to draw from."""
        reports = min(first + count, len(self.request.prompt) - 1) - first if self.scored else 0
        return max(reports, 0) + (first + count == len(self.tokens))

    def wanted(self, growth: int) -> int:
        """Rows of pages to compute what it has and grow by `growth` of them, or as far as it is allowed to.

        The token that ends a sequence is never computed, so it needs no place.
        """
        return min(pages_for(len(self.tokens)) + growth, pages_for(self.limit - 1))

    def chain(self, pages: int) -> list[bytes]:
        """Digests of the first `pages` pages, all of them full; each is computed once."""
        known = len(self.hashes)
        if known < pages:
            self.hashes += block_hashes(self.tokens, self._parent(known), known)
        return self.hashes[:pages]

    def names(self, page: int, end: int) -> list[bytes]:
        """Names of one page by its first token, its first two, and so on up to position `end` or its own end."""
        first = page * PAGE
        if len(self.tokens) >= first + PAGE:
            self.chain(page + 1)
        names = begun_names(self.tokens[first : min(end, first + PAGE)], self._parent(page))
        if len(names) == PAGE:
            names[-1] = self.hashes[page]
        return names

    def _parent(self, page: int) -> bytes:
        """What a page is chained to; the digests of those before it are known."""
        return self.hashes[page - 1] if page else root_hash(self.request.adapter, self.request.salt)

    def append(self, token: int) -> str | None:
        """Accept a drawn token. Returns why the sequence ends with it, "stop", "length" or "repetition", or None."""
        self.tokens.append(token)
        repeated = self.repetition is not None and self.repetition.add(token)
        enough = self.generated >= self.request.sampling.min_tokens
        if token in self.ends and enough:
            return "stop"
        if len(self.tokens) >= self.limit:
            return "length"
        return "repetition" if repeated and enough else None

    def stop_reason(self, finish: str | None) -> int | str | None:
        """Of a sequence that stopped at its last token, that one, unless it is the model's own end of text."""
        if finish != "stop":
            return REPEATED if finish == "repetition" else None
        request, token = self.request, self.tokens[-1]
        return None if token in request.eos_ids and not request.sampling.ignore_eos else token

    def rewind(self) -> None:
        """Forget what was computed: its pages and its slot belong to others now. The tokens and their chain stay."""
        self.computed = self.granted = self.sealed = 0
        self.blocks = []
        self.slot = -1
        self.prompt_logprobs = []

    def check(self, groups: int) -> None:
        """Assert the invariants. groups: pages of a row."""
        assert 0 <= self.computed <= len(self.tokens)
        assert len(self.tokens) < self.limit or self.state is State.FINISHED
        assert self.computed < len(self.tokens) or self.state is State.FINISHED
        assert len(self.hashes) <= len(self.tokens) // PAGE
        assert self.sealed <= self.computed // PAGE
        if self.state is State.RUNNING:
            assert self.slot >= 0
            assert len(self.blocks) == pages_for(self.computed + self.granted) * groups
        else:
            assert self.slot == -1
            assert not self.blocks
            assert not self.computed
