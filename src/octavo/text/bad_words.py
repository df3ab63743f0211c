"""Forbidden texts as tokens: a text is spelled one way at the start of a word and another way behind a space.

Invariant: for each text there are one or two lists of tokens, none of them empty. The rule is vLLM's: the spelling
behind a space counts where it begins with another token and is as long. Does not know how drawing heeds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.errors import InvalidValue
from octavo.text.tokenizer import Tokenizer


def spelled(words: Sequence[str] | None, tokenizer: Tokenizer | None) -> list[list[int]]:
    """The lists of tokens of all `words`. Raises InvalidValue where there is no tokenizer, or a text has no tokens."""
    if not words:
        return []
    if tokenizer is None:
        raise InvalidValue("bad_words", words[0], "this model has no tokenizer; use logit_bias")
    lists = []
    for word in words:
        bare, spaced = (tokenizer.encode(before + word.lstrip(), special=False) for before in ("", " "))
        if not bare:
            raise InvalidValue("bad_words", word, "texts that the tokenizer gives tokens for")
        lists.append(bare)
        if len(spaced) == len(bare) and spaced[0] != bare[0]:
            lists.append(spaced)
    return lists
