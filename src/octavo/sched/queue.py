"""Who is next: the waiting sequences in order.

Owns the order. Invariant: iteration gives those that wait by their places; a sequence that returns after a preemption
takes its old place, in front of all that came after it. Entering and leaving cost a binary search and a move of the
places behind. Knows no pages, slots or budget. The running sequences are kept by the same places, and the victim of a
preemption is the last.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from octavo.core.config import SchedulerConfig
from octavo.core.request import Request
from octavo.sched.sequence import Sequence


def place(config: SchedulerConfig, request: Request, arrival: int) -> tuple[int, int]:
    """Order of a request, unique by its arrival number: "fcfs" by arrival, "priority" by priority, then arrival."""
    return (request.priority if config.policy == "priority" else 0, arrival)


class WaitingQueue:
    """A sorted list."""

    def __init__(self) -> None:
        self._places: list[tuple[int, int]] = []
        self._sequences: dict[tuple[int, int], Sequence] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Sequence]:
        """Those that wait, in order. Nobody may enter or leave meanwhile."""
        return (self._sequences[place] for place in self._places)

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait at its place."""
        assert sequence.order not in self._sequences, f"{sequence.request.id} waits already"
        self._sequences[sequence.order] = sequence
        insort(self._places, sequence.order)

    def remove(self, sequence: Sequence) -> None:
        """Take a waiting sequence out, wherever it stands. Raises KeyError for one that does not wait."""
        del self._sequences[sequence.order]
        del self._places[bisect_left(self._places, sequence.order)]
