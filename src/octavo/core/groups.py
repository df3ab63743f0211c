"""How many pages sequences need where some layers see a window only. Counting, no pages.

A sequence grows by one page in every cache group at once: a row of pages. It gives back those pages of a group with a
window that lie behind the window of every token still to be computed, so such a group has a bound, however long the
sequence. Invariant: what is counted here is never less than what the scheduler holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.core.layout import PAGE, pages_for

GONE = -1  # in a block table: behind the window, and read by nobody


def behind(window: int, computed: int) -> int:
    """Leading pages that no token from position `computed` on sees, with a window > 0."""
    return max(0, computed - window + 1) // PAGE


class CacheGroups:
    """The groups of KvLayout.windows, where a step computes at most `step_tokens` tokens of a sequence."""

    def __init__(self, windows: tuple[int, ...] = (0,), step_tokens: int = 1) -> None:
        assert windows and step_tokens > 0
        self.count = len(windows)
        self.whole = [group for group, window in enumerate(windows) if not window]
        self.windowed = [(group, window) for group, window in enumerate(windows) if window]
        # of window + step_tokens - 1 positions in a row, wherever they begin
        self._bounds = [pages_for(window + step_tokens - 2) + 1 for _, window in self.windowed]

    def pages(self, tokens: int) -> int:
        """Most pages that a sequence of so many tokens holds at a time."""
        return self.claim(pages_for(tokens))

    def claim(self, rows: int, found: Sequence[int] = ()) -> int:
        """Most pages that a sequence comes to hold beside those it has, growing by `rows` rows.

        What it has may be shared with others: giving that back frees nothing, so it counts for nothing here. `found`:
        pages of each group that it is still to take hold of.
        """
        pages = rows * len(self.whole) + sum(found)
        for (group, _), bound in zip(self.windowed, self._bounds, strict=True):
            pages += min(rows, bound - found[group] if found else bound)
        return pages

    def longest(self, pages: int, most: int) -> int:
        """Tokens of the longest sequence that so many pages hold, at most `most`."""
        groups = self.count
        for bound in sorted(self._bounds):
            if pages < bound * groups:
                break
            pages, groups = pages - bound, groups - 1
        return min(most, pages // groups * PAGE) if groups else most
