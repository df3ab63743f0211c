"""Block tables of sequences: which page holds which positions in each cache group.

A table is one flat list, row by row: entry row * groups + group is the page that holds positions 32 row .. 32 row + 31
in that group, or GONE. Owns what of a prefix can be found again: a prefix of n full pages may be used where each group
has all pages that the tokens behind it see, those before them are GONE from the start. The first tokens of the row
behind it may be known, too, in begun pages of all groups. With one group that sees all, the ordinary case, a table is a
list of pages and everything goes straight to the pool.

Invariant: what a sequence has computed up to a position is GONE exactly where its group's window has passed. Knows no
requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.cache.pool import BlockPool
from octavo.core.groups import GONE, CacheGroups, behind
from octavo.core.layout import PAGE


class BlockTables:
    """Tables over the pages of one pool; the tables themselves belong to the sequences."""

    def __init__(self, pool: BlockPool, groups: CacheGroups) -> None:
        self.pool = pool
        self.groups = groups
        self._plain = groups.count == 1 and not groups.windowed

    def find(self, hashes: Sequence[bytes]) -> list[int]:
        """The table of the longest usable prefix of a chain. Changes nothing: `hold` it before the next `take`."""
        if self._plain:
            return self.pool.lookup(hashes)
        whole = {}
        for group in self.groups.whole:
            whole[group] = self.pool.lookup([_digest(digest, group) for digest in hashes])
            hashes = hashes[: len(whole[group])]
        rows, seen = len(hashes), dict[int, int]()
        known = dict.fromkeys((group for group, _ in self.groups.windowed), rows)
        while (gap := self._gap(hashes[:rows], known, seen)) is not None:
            rows = gap
        table = [GONE] * (rows * self.groups.count)
        for group, blocks in whole.items():
            table[group :: self.groups.count] = blocks[:rows]
        for place, block in seen.items():
            if place < len(table):
                table[place] = block
        return table

    def begun(self, names: Sequence[bytes]) -> tuple[list[int], int]:
        """The pages of the longest known begin of a row, one for each group, and how many tokens it has; or none, 0.

        names: those of the row's first token, its first two, and so on. Changes nothing.
        """
        find, count = self.pool.find, self.groups.count
        for rows in range(len(names), 0, -1):
            name = names[rows - 1]
            if find(name) is None:
                continue
            blocks = [block for group in range(count) if (block := find(_digest(name, group))) is not None]
            if len(blocks) == count:
                return blocks, rows
        return [], 0

    def go_on(self, begun: Sequence[int], rows: int) -> bool:
        """Hold begun pages, to write behind their first `rows` rows. False, and not held, where they must be copied."""
        if not all(self.pool.ends(block, rows) for block in begun):
            self.pool.used(begun)
            return False
        self.pool.hold(begun)
        return True

    def idle(self, table: Sequence[int]) -> list[int]:
        """How many pages of each group nobody holds, of a table that was found: holding them takes from the others."""
        parts = [table[group :: self.groups.count] for group in range(self.groups.count)]
        parts = parts if self._plain else [[block for block in part if block != GONE] for part in parts]
        return [len(part) - self.pool.in_use(part) for part in parts]

    def hold(self, table: Sequence[int]) -> None:
        """Take a reference on each page of a table that was found."""
        self.pool.hold(self._there(table))

    def seal(self, table: Sequence[int], hashes: Sequence[bytes], first: int) -> None:
        """The rows from `first` on, as far as there are hashes, are full and computed: they may be found."""
        count = self.groups.count
        for row in range(first, len(hashes)):
            for group in range(count):
                self.pool.seal(table[row * count + group], _digest(hashes[row], group))

    def seal_begun(self, table: Sequence[int], row: int, name: bytes, rows: int) -> None:
        """The first `rows` tokens of a row are computed, and may be found by this name."""
        for group in range(self.groups.count):
            self.pool.seal(table[row * self.groups.count + group], _digest(name, group), rows)

    def give_back(self, table: list[int], before: int, computed: int) -> None:
        """Release what fell behind a window as the computed tokens went from `before` to `computed`."""
        count = self.groups.count
        for group, window in self.groups.windowed:
            first, last = behind(window, before), behind(window, computed)
            if first < last:
                places = slice(first * count + group, last * count, count)
                self.pool.release(table[places])
                table[places] = [GONE] * (last - first)

    def release(self, table: Sequence[int]) -> None:
        """Drop the reference on each page of a table."""
        self.pool.release(self._there(table))

    def forget(self, table: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Nobody finds any more what is held, nor what was given back of the rows of these hashes."""
        self.pool.forget(self._there(table))
        for place, block in enumerate(table):
            if block == GONE:
                row, group = divmod(place, self.groups.count)
                self.pool.drop(_digest(hashes[row], group))

    def _there(self, table: Sequence[int]) -> Sequence[int]:
        return table if self._plain else [block for block in table if block != GONE]

    def _gap(self, hashes: Sequence[bytes], known: dict[int, int], seen: dict[int, int]) -> int | None:
        """A row that the tokens behind the hashes see and whose page is lost, or None.

        known: of each group the first row from which all pages were seen; they go to `seen` by their places. No page is
        looked up twice.
        """
        groups = self.groups
        for group, window in groups.windowed:
            known[group] = min(known[group], len(hashes))
            while known[group] > behind(window, len(hashes) * PAGE):
                known[group] -= 1
                block = self.pool.find(_digest(hashes[known[group]], group))
                if block is None:
                    return known[group]
                seen[known[group] * groups.count + group] = block
        return None


def _digest(digest: bytes, group: int) -> bytes:
    """The name of a page in one group: as it is in the first."""
    return digest + bytes((group,)) if group else digest
