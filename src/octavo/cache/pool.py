"""Who holds which page. Integers only: no memory, no tokens, no requests.

Owns the reference counts, the prefix index (name -> block) and the order of eviction. Invariant: every block is exactly
one of free, held (one reference or more) and cached (findable, held by nobody), and a name means one block. A name
stands for the first rows of a page, and rows that have a name are never written again. A full page, sealed by its
digest, is thus never written at all and may be held by many; a begun one is held by one at most, who writes behind the
named rows, and from whom others copy them. Cached begun pages are evicted before full ones: they drive out none.
Everything is O(1) for each block and name touched.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from octavo.core.layout import PAGE


class BlockPool:
    """Blocks 0 .. pages - 1. With `prefix_cache` False nothing is ever sealed or found."""

    def __init__(self, pages: int, prefix_cache: bool = True) -> None:
        assert pages > 0, f"a pool of {pages} pages"
        self.pages = pages
        self.prefix_cache = prefix_cache
        self._refs = [0] * pages
        self._names: list[list[bytes]] = [[] for _ in range(pages)]
        self._rows = [0] * pages  # so many of a block's first rows have names
        self._index: dict[bytes, int] = {}
        self._free = list(range(pages - 1, -1, -1))  # a stack: what was just used is still warm
        self._begun: OrderedDict[int, None] = OrderedDict()  # cached, in part; first is evicted first
        self._full: OrderedDict[int, None] = OrderedDict()  # cached and full; when there is no begun one

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that can be found and are held by nobody: evicted when free ones run out."""
        return len(self._begun) + len(self._full)

    @property
    def available(self) -> int:
        """Blocks that `take` can give: free and cached."""
        return len(self._free) + self.cached

    @property
    def held(self) -> int:
        """Blocks with a reference or more."""
        return self.pages - self.available

    def lookup(self, hashes: Sequence[bytes]) -> list[int]:
        """Blocks of the longest known prefix of a chain. Changes nothing: `hold` them before the next `take`."""
        blocks = []
        for digest in hashes:
            block = self._index.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def find(self, digest: bytes) -> int | None:
        """The block of a digest, or of another name. Changes nothing."""
        return self._index.get(digest)

    def ends(self, block: int, rows: int) -> bool:
        """Whether nobody holds the block and its named rows are so many: who holds it may write behind them."""
        return not self._refs[block] and self._rows[block] == rows

    def in_use(self, blocks: Sequence[int]) -> int:
        """How many of these are held by somebody, so that holding them too costs no page."""
        refs = self._refs
        return sum(1 for block in blocks if refs[block])

    def hold(self, blocks: Sequence[int]) -> None:
        """Take a reference on each of these blocks, which are sealed, or begun and held by nobody."""
        for block in blocks:
            rows = self._rows[block]
            assert rows == PAGE or (rows and not self._refs[block]), f"block {block} is not sealed"
            if not self._refs[block]:
                del self._shelf(block)[block]
            self._refs[block] += 1

    def used(self, blocks: Sequence[int]) -> None:
        """Those of these that are cached were of use without being held: they are evicted after their like."""
        for block in blocks:
            if block in self._shelf(block):
                self._shelf(block).move_to_end(block)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks to write to, with one reference each: free ones, then the longest unused of the cached.

        None, and nothing changed, when there are not enough.
        """
        if count > self.available:
            return None
        cut = max(0, len(self._free) - count)
        taken = self._free[cut:][::-1]
        del self._free[cut:]
        while len(taken) < count:
            block, _ = (self._begun or self._full).popitem(last=False)
            self._unseal(block)
            taken.append(block)
        for block in taken:
            self._refs[block] = 1
        return taken

    def seal(self, block: int, digest: bytes, rows: int = PAGE) -> None:
        """The first `rows` rows of the held block are computed: from now on they are found by this name.

        Where the name is known already the first block keeps it. If the page is full, that block has the same in all of
        its rows, so it takes over the other names of this one, which stays private to its holder.
        """
        assert self._refs[block], f"block {block} is held by nobody"
        if not self.prefix_cache:
            return
        known = self._index.get(digest)
        if known is None:
            assert self._rows[block] < rows, f"block {block} is sealed already"
            self._index[digest] = block
            self._names[block].append(digest)
            self._rows[block] = rows
        elif known != block and rows == PAGE:
            for name in self._names[block]:
                self._index[name] = known
            self._names[known] += self._names[block]
            self._names[block] = []
            self._rows[block] = 0

    def forget(self, blocks: Sequence[int]) -> None:
        """Held blocks whose content is not to be trusted: nobody finds them any more; who holds them keeps them."""
        for block in blocks:
            assert self._refs[block], f"block {block} is held by nobody"
            self._unseal(block)

    def drop(self, digest: bytes) -> None:
        """As `forget`, of a digest, whoever holds its block or nobody."""
        block = self._index.get(digest)
        if block is None:
            return
        if not self._refs[block]:
            del self._shelf(block)[block]
            self._free.append(block)
        self._unseal(block)

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference on each block of a table. What nobody holds becomes cached if sealed, else free.

        Of one table the tail is evicted before the head: a prefix without its head cannot be found.
        """
        for block in reversed(blocks):
            assert self._refs[block], f"block {block} is held by nobody"
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if self._names[block]:
                self._shelf(block)[block] = None
            else:
                self._free.append(block)

    def references(self) -> dict[int, int]:
        """References on each held block."""
        return {block: count for block, count in enumerate(self._refs) if count}

    def check(self) -> None:
        """Assert every invariant; O(pages)."""
        begun, full = set(self._begun), set(self._full)
        free, cached, held = set(self._free), begun | full, set(self.references())
        assert len(free) == len(self._free), "a block is free twice"
        assert min(self._refs) >= 0, "a negative reference count"
        assert free | cached | held == set(range(self.pages)), "a block in no state"
        assert len(free) + len(cached) + len(held) == self.pages, "a block in two states"
        assert (self.free, self.cached, self.held) == (len(free), len(cached), len(held))
        sealed = {block for block, names in enumerate(self._names) if names}
        names = [(name, block) for block in sealed for name in self._names[block]]
        assert self._index == dict(names), "index and blocks differ"
        assert len(self._index) == len(names), "two blocks of one name"
        assert sealed == {block for block, rows in enumerate(self._rows) if rows}, "names without rows"
        shared = [block for block, count in self.references().items() if count > 1]
        assert {self._rows[block] for block in shared} <= {0, PAGE}, "a begun page is shared"  # 0: sealed and forgotten
        assert cached <= sealed, "a cached block that cannot be found"
        assert full == {block for block in cached if self._rows[block] == PAGE}, "begun and full confused"
        assert not free & sealed, "a free block that can be found"
        assert self.prefix_cache or not sealed

    def _shelf(self, block: int) -> OrderedDict[int, None]:
        """Where a named block is while nobody holds it."""
        return self._full if self._rows[block] == PAGE else self._begun

    def _unseal(self, block: int) -> None:
        """Take a block out of the index, with all of its names."""
        for name in self._names[block]:
            del self._index[name]
        self._names[block] = []
        self._rows[block] = 0
