"""Log-probabilities in the shapes of the OpenAI API.

Invariant: what a token is called depends on the token alone, so a streamed answer joins to the whole one. A token that
is not valid UTF-8 by itself (a part of a character) is called by its escaped bytes: with "bytes:" before them in
completions, as OpenAI does there. Without a tokenizer, or where the request wants it, a token is called "token_id:N".
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from octavo.core.plan import TokenLogprob
from octavo.protocol.chat import ChatLogprob, ChatLogprobs, TopLogprob
from octavo.protocol.completions import CompletionLogprobs
from octavo.text.tokenizer import Tokenizer

LOWEST = -9999.0  # stands for minus infinity, which JSON does not have


class TokenNames:
    """What tokens are called. `tokenizer` None, or `numbered`: by their number."""

    def __init__(self, tokenizer: Tokenizer | None, *, numbered: bool = False) -> None:
        self._tokenizer = tokenizer
        self._numbered = numbered

    def bytes(self, token: int) -> bytes | None:
        """The token's bytes; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        if token in self._tokenizer.special_ids:
            return self._tokenizer.token_text(token).encode()
        return self._tokenizer.token_bytes(token)

    def name(self, token: int, prefix: str = "") -> str:
        """The token's text; `prefix` goes before escaped bytes."""
        return f"token_id:{token}" if self._numbered else self.text(token, prefix)

    def text(self, token: int, prefix: str = "") -> str:
        """The same of a name that stands beside the token's number."""
        data = self.bytes(token)
        if data is None:
            return f"token_id:{token}"
        try:
            return data.decode()
        except UnicodeDecodeError:
            return prefix + "".join(f"\\x{byte:02x}" for byte in data)


class Offsets:
    """Where the text of each token begins, in characters: tokens are decoded as the text is. One text, in order.

    hidden: so many tokens at the start have no text in it. prompt: tokens that the text continues, as for Detokenizer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        skip_special: bool,
        start: int = 0,
        hidden: int = 0,
        prompt: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if tokenizer is not None and skip_special else frozenset()
        self._strip = False
        if tokenizer is not None and tokenizer.strips_space:
            self._strip = not any(tokenizer.token_bytes(token) for token in prompt if token not in self._skip)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._end = start
        self._hidden = hidden

    def next(self, token: int) -> int:
        """The offset of this token, the next one of the text."""
        begin = self._end
        if self._hidden:
            self._hidden -= 1
        elif self._tokenizer is not None and token not in self._skip:
            data = self._tokenizer.token_bytes(token)
            if self._strip and data:
                data, self._strip = data.removeprefix(b" "), False
            self._end += len(self._decoder.decode(data))
        return begin


def finite(logprob: float) -> float:
    """A number that JSON has."""
    return max(logprob, LOWEST)


def chat_logprobs(names: TokenNames, entries: Sequence[TokenLogprob]) -> ChatLogprobs:
    """The chat shape: one object for each token."""
    content = []
    for entry in entries:
        top = [TopLogprob(names.name(token), finite(value), _listed(names, token)) for token, value in entry.top]
        token = entry.token
        content.append(ChatLogprob(names.name(token), finite(entry.logprob), _listed(names, token), top))
    return ChatLogprobs(content)


def _listed(names: TokenNames, token: int) -> list[int] | None:
    data = names.bytes(token)
    return None if data is None else list(data)


def completion_logprobs(
    names: TokenNames, tokens: Sequence[int], entries: Sequence[TokenLogprob | None], offsets: Offsets
) -> CompletionLogprobs:
    """The completions shape. An entry is None for a token that has nothing before it."""
    shape = CompletionLogprobs([], [], [], [])
    for token, entry in zip(tokens, entries, strict=True):
        shape.tokens.append(names.name(token, "bytes:"))
        shape.text_offset.append(offsets.next(token))
        if entry is None:
            shape.token_logprobs.append(None)
            shape.top_logprobs.append(None)
            continue
        shape.token_logprobs.append(finite(entry.logprob))
        likely = {names.name(other, "bytes:"): finite(value) for other, value in entry.top}
        shape.top_logprobs.append(likely | {names.name(token, "bytes:"): finite(entry.logprob)})
    return shape


def prompt_logprobs(names: TokenNames, entries: Sequence[TokenLogprob]) -> list[Any]:
    """vLLM's shape: null for the first prompt token, then a map from token id to its figures for each further one."""
    listed: list[Any] = [None]
    for entry in entries:
        ranked = [(token, value, rank) for rank, (token, value) in enumerate(entry.top, 1)]
        if all(token != entry.token for token, _, _ in ranked):
            ranked.append((entry.token, entry.logprob, entry.rank))
        listed.append(
            {
                str(token): {"logprob": finite(value), "rank": rank, "decoded_token": names.text(token)}
                for token, value, rank in ranked
            }
        )
    return listed
