"""Finds answers that only repeat themselves, a token at a time."""

from __future__ import annotations

from octavo.core.repetition import RepetitionDetectionParams


class Repetition:
    """What the end of one answer repeats.

    Invariant: runs[size] is how many of the last tokens each equal the one `size` tokens before them, for the sizes
    where the last one does; a pattern of `size` tokens has come n times in a row where that is (n - 1) * size or more.
    So a token costs as much as it occurred among the last max_pattern_size ones, however long the patterns.
    """

    def __init__(self, params: RepetitionDetectionParams) -> None:
        self._least, self._most = max(params.min_pattern_size, 1), params.max_pattern_size
        self._times = params.min_count - 1
        self._places: dict[int, list[int]] = {}  # of each token among the last `most`
        self._runs: dict[int, int] = {}
        self._end = 0

    def add(self, token: int) -> bool:
        """Whether the answer, with this token, ends with a pattern that came often enough."""
        if not self._most:
            return False
        places = [place for place in self._places.get(token, ()) if self._end - place <= self._most]
        self._runs = {self._end - place: self._runs.get(self._end - place, 0) + 1 for place in places}
        self._places[token] = [*places, self._end]
        self._end += 1
        return any(size >= self._least and run >= size * self._times for size, run in self._runs.items())
