"""Grammars, compiled once each and kept: from llguidance's text to a matcher of one sequence.

Invariant: a text compiles to the same matcher whoever asks, and what is refused raises InvalidValue and leaves nothing
behind. Any thread may ask. llguidance and the tokenizer are loaded when the first grammar comes. Knows no sequence.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from octavo.text.grammar import refused

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from octavo.text.tokenizer import Tokenizer

MAX_GRAMMAR = 1 << 18  # characters of one grammar
KEPT = 64  # compiled grammars; each takes about a megabyte
# llguidance counts work in fuel, so a grammar is refused on every machine or on none; these take about a second.
INITIAL_FUEL = 10_000_000  # for what is built before the first token; 50 000 a millisecond
STEP_FUEL = 1_000_000  # for one token
THEIR_ADVICE = ". Enable 'coerce_one_of' option to approximate oneOf with anyOf"  # an option callers do not have
MAX_STATES = 100_000  # of the lexer; up to 2 KB each


class Grammars:
    """`load` gives the model's tokenizer; `vocab` is the width of its logits; `eos` end a text."""

    def __init__(self, load: Callable[[], Tokenizer | None], vocab: int, eos: tuple[int, ...]) -> None:
        self._load = load
        self._vocab = vocab
        self._eos = eos
        self._lock = threading.Lock()  # of what is kept: never for long, for the loop asks too
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    @property
    def words(self) -> int:
        """Words of 32 bits in a mask."""
        return (self._vocab + 31) // 32

    def kept(self, grammar: str) -> bool:
        """Whether `matcher` would answer at once."""
        with self._lock:
            return grammar in self._kept

    def matcher(self, grammar: str, field: str) -> LLMatcher:
        """A matcher at its start, the caller's own. Raises UserError naming `field`: it cannot be compiled, and why."""
        with self._lock:
            found = self._kept.get(grammar)
            if found is not None:
                self._kept.move_to_end(grammar)
                return found.deep_copy()
        made = self._compile(grammar, field)
        with self._lock:
            self._kept[grammar] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made.deep_copy()

    def _compile(self, grammar: str, field: str) -> LLMatcher:
        import llguidance

        if len(grammar) > MAX_GRAMMAR:
            raise refused(field, f"{len(grammar)} characters of grammar; at most {MAX_GRAMMAR} are taken")
        limits = llguidance.LLParserLimits(
            initial_lexer_fuel=INITIAL_FUEL,
            step_lexer_fuel=STEP_FUEL,
            max_lexer_states=MAX_STATES,
            verbose_errors=False,
        )
        made = llguidance.LLMatcher(self._loaded(field), grammar, log_level=0, limits=limits)
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
