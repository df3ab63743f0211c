"""What one render of a chat template may spend: steps, seconds, characters.

Owns the counts of one render; sandbox.py asks before and after every operation. The invariant: after any operation no
string, and no list or map with all it holds, weighs more than MAX_CHARS, and what operations have made in all weighs at
most MAX_WORK. Does not know Jinja.

A weight is a number of characters; an entry of a list or map adds ENTRY. Parts that occur twice count twice: it is the
written-out form that must stay small.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

MAX_CHARS = 8 << 20
MAX_WORK = 32 * MAX_CHARS
MAX_STEPS = 2_000_000
MAX_SECONDS = 5.0
ENTRY = 8


class Exceeded(Exception):
    """The render takes more than it may; the message says of what."""


class Budget:
    """`inputs` are weighed once, here, so that passing them around costs nothing."""

    def __init__(self, inputs: Iterable[Any] = ()) -> None:
        self._steps = MAX_STEPS
        self._work = MAX_WORK
        self._deadline = time.monotonic() + MAX_SECONDS
        self._known: dict[int, int] = {}  # by identity: the inputs outlive the render and do not change
        for value in inputs:
            self._know(value)

    def _know(self, value: Any) -> int:
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, (list, tuple, dict)):
            return 0
        parts = _parts(value)
        weight = self._known[id(value)] = ENTRY * len(parts) + sum(map(self._know, parts))
        return weight

    def step(self) -> None:
        """Count one step."""
        self._steps -= 1
        if self._steps < 0:
            raise Exceeded(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._deadline:
            raise Exceeded(f"it takes longer than {MAX_SECONDS:g} seconds")

    def size(self, weight: int) -> None:
        """Refuse something that would weigh too much, before it is made."""
        if weight > MAX_CHARS:
            raise Exceeded(f"a text in it grows beyond {MAX_CHARS} characters")

    def spend(self, weight: int) -> None:
        """Count what an operation has made."""
        self._work -= weight
        if self._work < 0:
            raise Exceeded(f"it handles more than {MAX_WORK} characters in all")

    def made(self, value: Any) -> None:
        """Count what an operation has made; of a list or map, its own entries: what it holds was made before."""
        if isinstance(value, str):
            self.size(len(value))
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.weigh(value)
            self.spend(ENTRY * len(value))

    def weigh(self, value: Any) -> int:
        """The weight of a value; refuses too much."""
        if isinstance(value, str):
            self.size(len(value))
            return len(value)
        if not isinstance(value, (list, tuple, dict)):
            return 0
        weight, waiting = 0, [value]
        while waiting:
            value = waiting.pop()
            known = self._known.get(id(value))
            if known is None:
                parts = _parts(value)
                known = ENTRY * len(parts) + sum(len(part) for part in parts if isinstance(part, str))
                waiting.extend(part for part in parts if isinstance(part, (list, tuple, dict)))
            weight += known
            self.size(weight)
        return weight


def _parts(value: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
