"""What tokens spell: the bytes of a token, by the decoder of its tokenizer.

Owns the reading of a decoder's settings; the invariant: a text's bytes are its tokens' bytes, joined, less one leading
space where `strips_space`. That makes decoding linear and the same for every cut. It differs from the library's own
decoders in one point: theirs write a run of SentencePiece byte tokens that is not valid UTF-8 as one U+FFFD for each
byte, valid characters within it included; here only what is invalid becomes U+FFFD, as in byte-level vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo.core.errors import ModelError

# What `cleanup` of the library's WordPiece writes within a token.
CLEANED = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
    (" do not", " don't"),
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Spelling:
    """`spell`: from a token's text to its bytes. `strips_space`: a text does not start with the space of its first
    token."""

    spell: Callable[[str], bytes]
    strips_space: bool


def read_spelling(decoder: dict[str, Any] | None) -> Spelling:
    """From the decoder's settings, as in tokenizer.json. Raises ModelError for a kind that is not supported."""
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(_byte_level_speller(), False)
    if kinds == ["WordPiece"]:
        return Spelling(_word_speller(steps[0]["prefix"], cleanup=steps[0]["cleanup"]), True)
    if not steps or set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        named = ", ".join(kinds) or "none"
        raise ModelError(
            f"tokenizer.json: decoder {named} is not supported; supported are ByteLevel, WordPiece, Metaspace, and "
            "sequences of Replace, ByteFallback, Fuse and Strip"
        )
    replacements: list[tuple[str, str]] = []
    strips = False
    for step in steps:
        if step["type"] == "Replace":
            replacements.append((_literal(step), step["content"]))
        elif step["type"] == "Metaspace":
            replacements.append((step["replacement"], " "))
            strips = step.get("prepend_scheme", "always") != "never"
        elif step["type"] == "Strip":
            if (step["content"], step["start"], step["stop"]) != (" ", 1, 0):
                raise ModelError("tokenizer.json: decoder Strip is supported only for one leading space")
            strips = True
    return Spelling(_piece_speller(replacements, "ByteFallback" in kinds), strips)


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder as a flat sequence."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _literal(step: dict[str, Any]) -> str:
    pattern = step["pattern"].get("String")
    if pattern is None:
        raise ModelError("tokenizer.json: decoder Replace is supported only for fixed strings")
    return str(pattern)


def byte_letters() -> dict[str, int]:
    """GPT-2's alphabet of 256 letters for bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters.update({chr(0x100 + i): byte for i, byte in enumerate(rest)})
    return letters


def _byte_level_speller() -> Callable[[str], bytes]:
    letters = byte_letters()

    def spell(token: str) -> bytes:
        try:
            return bytes([letters[letter] for letter in token])
        except KeyError:  # not written in the alphabet: an added token, as it is
            return token.encode()

    return spell


def _word_speller(prefix: str, *, cleanup: bool) -> Callable[[str], bytes]:
    """Of tokens that are words, or go on with one where they begin with `prefix`; a text's first is no such."""

    def spell(token: str) -> bytes:
        if token.startswith(prefix):
            return token.replace(prefix, "", 1).encode()
        token = " " + token
        for old, new in CLEANED if cleanup else ():
            token = token.replace(old, new)
        return token.encode()

    return spell


def _piece_speller(replacements: list[tuple[str, str]], byte_fallback: bool) -> Callable[[str], bytes]:
    def spell(token: str) -> bytes:
        for old, new in replacements:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token) if byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    return spell
