"""Token ids to text as they come: what each batch of new tokens adds, in whole characters.

Owns the end of the text that is not yet certain: at most three bytes of a character whose rest may follow. The
invariant: the pieces, joined, are what decoding all tokens at once gives, however they were cut, and each token costs
the same, valid or not. Does not know stop strings (stop.py) or requests.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from octavo.text.tokenizer import Tokenizer

_LONGEST = 4  # bytes of a UTF-8 character


class Detokenizer:
    """Turns the tokens of one text into pieces of text. Not thread-safe.

    skip_special: leave special tokens out, but for those `kept`. prompt: tokens the text continues; none of their text
    is ever given out, but they settle two things. After a prompt with text, the first token keeps its leading space
    (SentencePiece); and if the prompt ends within a character whose rest comes first, the character is given out whole.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        prompt: Sequence[int] = (),
        kept: frozenset[int] = frozenset(),
    ) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skip = tokenizer.special_ids - kept if skip_special else frozenset()
        self._rest = b""  # the beginning of a character
        tail = self._tail(prompt)
        self._strip = tokenizer.strips_space and not tail
        self._begun = _unfinished(tail)

    def _tail(self, prompt: Sequence[int]) -> bytes:
        """The prompt's last bytes, enough of them to hold an unfinished character; empty where it has no text."""
        tail = b""
        for i in reversed(prompt):
            if i not in self._skip:
                tail = self._bytes_of(i) + tail
            if len(tail) >= _LONGEST:
                break
        return tail

    def push(self, ids: Iterable[int]) -> str:
        """The text these tokens complete; what they leave unfinished waits for the next."""
        skip = self._skip
        data = b"".join([self._bytes_of(i) for i in ids if i not in skip])
        if not data:
            return ""
        if self._strip:
            self._strip = False
            data = data.removeprefix(b" ")
        if self._begun:
            data, self._begun = _continued(self._begun, data), b""
        data = self._rest + data
        text, used = codecs.utf_8_decode(data, "replace")
        self._rest = data[used:]
        return text

    @property
    def begun(self) -> bool:
        """Whether the text so far ends within a character."""
        return bool(self._rest or self._begun)

    def finish(self) -> str:
        """What is left: U+FFFD if the text ends within a character."""
        rest, self._rest = self._rest, b""
        return rest.decode(errors="replace")


def _unfinished(data: bytes) -> bytes:
    """The last bytes that begin a character and do not end it."""
    return data[codecs.utf_8_decode(data, "replace")[1] :]


def _continued(begun: bytes, data: bytes) -> bytes:
    """`begun` and `data`, if data's first byte goes on with the character begun; else data alone."""
    return data if codecs.utf_8_decode(begun + data[:1], "replace")[0][:1] == "\ufffd" else begun + data
