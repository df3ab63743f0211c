"""JSON of which only one text changes: encoded once, then the text alone.

Invariant: `fill` gives, byte for byte, what encoding the whole value with that text gives. Knows no endpoint.
"""

from __future__ import annotations

import msgspec

HOLE = "\0"
_ENCODED = msgspec.json.encode(HOLE)


class Stencil:
    """`whole` is a value's JSON with HOLE as its text; no text behind it in the value is HOLE."""

    def __init__(self, whole: bytes) -> None:
        self._before, found, self._after = whole.rpartition(_ENCODED)
        assert found, "there is no hole"

    def fill(self, text: str) -> bytes:
        """The JSON with this text."""
        return self._before + msgspec.json.encode(text) + self._after
