"""Grammars, compiled once each: from llguidance's text to a matcher of one sequence.

Invariant: a text compiles to the same matcher whoever asks, and what is refused raises UserError and leaves nothing
behind. What a request holds stays until it is released, so that no step compiles; besides, the last few are kept. Any
thread may ask. llguidance and the tokenizer are loaded when the first grammar comes. Knows no sequence.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from octavo.core.request import Request
from octavo.text.grammar import refused
from octavo.worker import trial
from octavo.worker.trial import Trial

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from octavo.text.tokenizer import Tokenizer

MAX_GRAMMAR = 1 << 18  # characters of one grammar
KEPT = 64  # grammars that no request holds any more
KEPT_TEXT = MAX_GRAMMAR  # characters of those; one may take 350 bytes of memory
SIZE_BYTES = 1 << 18  # of a compiled grammar, on average: SchemaStore's take 0.25 MB, the largest 8
TOKEN_BYTES = 1024  # of the tokenizer and of llguidance's view of it, by token of the vocabulary
THEIR_ADVICE = ". Enable 'coerce_one_of' option to approximate oneOf with anyOf"  # an option callers do not have


class Grammars:
    """`load` gives the model's tokenizer; `vocab` is the width of its logits; `eos` end a text.

    `most`: how many different grammars requests hold at once before others that may wait do so. `tried`: each grammar
    is compiled by a process first, which ends where that takes too long.
    """

    def __init__(
        self,
        load: Callable[[], Tokenizer | None],
        vocab: int,
        eos: tuple[int, ...],
        *,
        most: int = 64,
        tried: bool = False,
    ) -> None:
        self._load = load
        self._vocab = vocab
        self._eos = eos
        self._most = most
        self._tried = tried
        self._trial: Trial | None = None
        self._lock = threading.Condition()  # of what is kept: never for long, for the loop asks too
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._held: dict[str, str] = {}  # grammars by request id
        self._holders: Counter[str] = Counter()  # how many requests hold a grammar

    @staticmethod
    def size_bytes(most: int, vocab: int) -> int:
        """Memory when as many grammars as may be are compiled, of usual size, over a vocabulary of `vocab`."""
        return vocab * TOKEN_BYTES + (most + KEPT) * SIZE_BYTES + trial.SIZE_BYTES

    def take(self, request: Request) -> bool:
        """Hold the request's grammar where that takes no time; whether it is held."""
        with self._lock:
            ready = request.grammar in self._kept and self._room(request.grammar)
            if ready:
                self._hold(request)
            return ready or request.id in self._held

    def hold(self, request: Request, *, wait: bool = False) -> None:
        """Hold the request's grammar, compiled here if it must be. Raises UserError: it cannot be, and why.

        wait: until there is room for one more.
        """
        with self._lock:
            if wait:
                self._lock.wait_for(lambda: self._room(request.grammar))
            made = self._kept.get(request.grammar)
        made = made or self._compile(request.grammar, request.grammar_field)
        with self._lock:
            self._kept[request.grammar] = made
            self._hold(request)
            self._forget()

    def release(self, request_id: str) -> None:
        """The request is gone."""
        with self._lock:
            grammar = self._held.pop(request_id, None)
            if grammar is not None:
                self._holders -= Counter([grammar])  # leaves none of count 0
                self._kept.move_to_end(grammar)
                self._forget()
                self._lock.notify_all()

    def matcher(self, grammar: str, field: str) -> LLMatcher:
        """A matcher at its start, the caller's own. Raises UserError naming `field`: it cannot be compiled, and why."""
        with self._lock:
            found = self._kept.get(grammar)
        return (found or self._compile(grammar, field)).deep_copy()

    def close(self) -> None:
        """End what was started. May be called twice."""
        if self._trial is not None:
            self._trial.close()

    def _room(self, grammar: str) -> bool:
        return grammar in self._holders or len(self._holders) < self._most

    def _hold(self, request: Request) -> None:
        if request.id not in self._held:
            self._held[request.id] = request.grammar
            self._holders[request.grammar] += 1
            self._kept.move_to_end(request.grammar)

    def _forget(self) -> None:
        idle = [grammar for grammar in self._kept if grammar not in self._holders]
        text = sum(map(len, idle))
        for place, grammar in enumerate(idle):
            if len(idle) - place > KEPT or text > KEPT_TEXT:
                text -= len(grammar)
                del self._kept[grammar]

    def _compile(self, grammar: str, field: str) -> LLMatcher:
        if len(grammar) > MAX_GRAMMAR:
            raise refused(field, f"{len(grammar)} characters of grammar; at most {MAX_GRAMMAR} are taken")
        tokenizer = self._loaded(field)
        if self._trial is not None and not self._trial.outlives(grammar):
            raise refused(field, f"it takes more than {trial.SECONDS:g} seconds to compile, or too much memory")
        made = trial.compiled(tokenizer, grammar)
        if made.is_error():
            raise refused(field, made.get_error().replace(THEIR_ADVICE, ", where several might fit at once: use anyOf"))
        return made

    def _loaded(self, field: str) -> LLTokenizer:
        with self._loading:
            if self._tokenizer is None:
                tokenizer = self._load()
                if tokenizer is None:
                    raise refused(field, "this model has no tokenizer, and a grammar is one of text")
                self._tokenizer = _in_their_terms(tokenizer, self._vocab, self._eos)
                specials = {id: tokenizer.token_text(id) for id in tokenizer.special_ids if id < self._vocab}
                self._trial = Trial(specials, self._vocab) if self._tried else None
            return self._tokenizer


class _Vocabulary:
    """A tokenizer as llguidance asks for one."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, eos: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab)]

    def __call__(self, text: Any) -> list[int]:
        """Token ids of a piece of text."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return self._tokenizer.encode(text, special=False)


def _in_their_terms(tokenizer: Tokenizer, vocab: int, eos: tuple[int, ...]) -> LLTokenizer:
    import llguidance

    ends = [token for token in dict.fromkeys((*tokenizer.eos_ids, *eos)) if token < vocab]
    # no end of text: a token without bytes, which no grammar allows, stands for it
    first = ends[0] if ends else vocab - 1
    wrapped = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab, first))
    return llguidance.LLTokenizer(wrapped, n_vocab=vocab, eos_token=ends or [first])
