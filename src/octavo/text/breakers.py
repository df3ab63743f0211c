"""Sequence breakers of DRY as tokens: each token that holds a breaker, or begins one that others must end.

The rule is llama.cpp's (get_overlapping_token_sequences in src/llama-sampling.cpp): a token that contains the breaker
is one by itself; one that ends as the breaker begins is one together with the tokens of the rest. Knows no penalty.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.errors import InvalidValue
from octavo.text.tokenizer import Tokenizer

DEFAULT = ("\n", ":", '"', "*")
MOST_BYTES = 40  # of a breaker, the rest is cut off
MOST_TAIL = 20  # tokens of the rest


class Breakers:
    """Breakers over one vocabulary. Finding them reads all of it, so the last sets are kept."""

    KEPT = 16

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, ...], list[list[int]]] = {}

    def of(self, texts: Sequence[str] | None) -> list[list[int]]:
        """The tokens of each breaker, the first alone or with what must follow it. None: the default ones."""
        wanted = tuple(DEFAULT if texts is None else texts)
        found = self._known.get(wanted)
        if found is None:
            found = [breaker for text in wanted for breaker in self._of(text.encode()[:MOST_BYTES])]
            while len(self._known) >= self.KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[wanted] = found
        return found

    def _of(self, text: bytes) -> list[list[int]]:
        found, tails = [], dict[bytes, list[int]]()
        for token in range(self._tokenizer.vocab_size):
            word = self._tokenizer.token_bytes(token)
            if text in word:
                found.append([token])
                continue
            for length in range(1, min(len(text), len(word) + 1)):
                if not word.endswith(text[:length]):
                    continue
                rest = text[length:]
                if rest not in tails:
                    spelled = self._tokenizer.encode(rest.decode(errors="replace"), special=False)
                    tails[rest] = spelled[:MOST_TAIL]
                if [token, *tails[rest]] not in found[-len(text) :]:
                    found.append([token, *tails[rest]])
        return found


def required(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer that breakers need. Raises InvalidValue."""
    if tokenizer is None:
        raise InvalidValue("dry_multiplier", "given", "0: this model has no tokenizer to find sequence breakers with")
    return tokenizer
