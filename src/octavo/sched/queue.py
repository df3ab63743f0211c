"""Who is next: the waiting sequences in order.

Owns the order. Invariant: `peek` is the smallest place of those that wait; a sequence that returns after a preemption
takes its old place, in front of all that came after it. Operations are O(log n), cancellation O(1) amortised. Knows no
pages, slots or budget. The running sequences are kept by the same places, and the victim of a preemption is the last.
"""

from __future__ import annotations

import heapq

from octavo.core.config import SchedulerConfig
from octavo.core.request import Request
from octavo.sched.sequence import Sequence


def place(config: SchedulerConfig, request: Request, arrival: int) -> tuple[int, int]:
    """Order of a request, unique by its arrival number: "fcfs" by arrival, "priority" by priority, then arrival."""
    return (request.priority if config.policy == "priority" else 0, arrival)


class WaitingQueue:
    """A heap of places. A cancelled place stays in the heap until it comes up or most of the heap is such."""

    def __init__(self) -> None:
        self._sequences: dict[tuple[int, int], Sequence] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait at its place."""
        assert sequence.order not in self._sequences, f"{sequence.request.id} waits already"
        self._sequences[sequence.order] = sequence
        heapq.heappush(self._heap, sequence.order)

    def peek(self) -> Sequence | None:
        """The first in order, or None when nobody waits."""
        while self._heap:
            sequence = self._sequences.get(self._heap[0])
            if sequence is not None:
                return sequence
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Sequence:
        """Take the first in order out. Raises IndexError when nobody waits."""
        sequence = self.peek()
        if sequence is None:
            raise IndexError("nobody waits")
        del self._sequences[heapq.heappop(self._heap)]
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Take a waiting sequence out, wherever it stands."""
        del self._sequences[sequence.order]
        if len(self._heap) > 2 * len(self._sequences) + 64:
            self._heap = list(self._sequences)
            heapq.heapify(self._heap)
