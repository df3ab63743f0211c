"""Who holds which page. Integers only: no memory, no tokens, no requests.

Owns the reference counts, the prefix index (digest of a full page -> block) and the order of eviction. Invariant: every
block is exactly one of free, held (one reference or more) and cached (findable, held by nobody), and a digest names one
block. Only full pages are sealed, and a sealed page is never written again, so sharing needs no copies. Everything is
O(1) for each block touched.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """Blocks 0 .. pages - 1. With `prefix_cache` False nothing is ever sealed or found."""

    def __init__(self, pages: int, prefix_cache: bool = True) -> None:
        assert pages > 0, f"a pool of {pages} pages"
        self.pages = pages
        self.prefix_cache = prefix_cache
        self._refs = [0] * pages
        self._hashes: list[bytes | None] = [None] * pages  # of sealed blocks
        self._index: dict[bytes, int] = {}
        self._free = list(range(pages - 1, -1, -1))  # a stack: what was just used is still warm
        self._cached: OrderedDict[int, None] = OrderedDict()  # first is evicted first

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that can be found and are held by nobody: evicted when free ones run out."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that `take` can give: free and cached."""
        return len(self._free) + len(self._cached)

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
        """The block of a digest. Changes nothing."""
        return self._index.get(digest)

    def in_use(self, blocks: Sequence[int]) -> int:
        """How many of these are held by somebody, so that holding them too costs no page."""
        refs = self._refs
        return sum(1 for block in blocks if refs[block])

    def hold(self, blocks: Sequence[int]) -> None:
        """Take a reference on each of these sealed blocks."""
        for block in blocks:
            assert self._hashes[block] is not None, f"block {block} is not sealed"
            if not self._refs[block]:
                del self._cached[block]
            self._refs[block] += 1

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
            block, _ = self._cached.popitem(last=False)
            self._unseal(block)
            taken.append(block)
        for block in taken:
            self._refs[block] = 1
        return taken

    def seal(self, block: int, digest: bytes) -> None:
        """The held block is full and computed: from now on it is found by `digest`.

        Where the digest is known already the first block keeps it, and this one stays private to its holder.
        """
        assert self._refs[block], f"block {block} is held by nobody"
        if not self.prefix_cache or digest in self._index:
            return
        assert self._hashes[block] is None, f"block {block} is sealed already"
        self._hashes[block] = digest
        self._index[digest] = block

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
        self._unseal(block)
        if not self._refs[block]:
            del self._cached[block]
            self._free.append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference on each block of a table. What nobody holds becomes cached if sealed, else free.

        Of one table the tail is evicted before the head: a prefix without its head cannot be found.
        """
        for block in reversed(blocks):
            assert self._refs[block], f"block {block} is held by nobody"
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if self._hashes[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def references(self) -> dict[int, int]:
        """References on each held block."""
        return {block: count for block, count in enumerate(self._refs) if count}

    def check(self) -> None:
        """Assert every invariant; O(pages)."""
        free, cached, held = set(self._free), set(self._cached), set(self.references())
        assert len(free) == len(self._free), "a block is free twice"
        assert min(self._refs) >= 0, "a negative reference count"
        assert free | cached | held == set(range(self.pages)), "a block in no state"
        assert len(free) + len(cached) + len(held) == self.pages, "a block in two states"
        assert (self.free, self.cached, self.held) == (len(free), len(cached), len(held))
        sealed = {block: digest for block, digest in enumerate(self._hashes) if digest is not None}
        assert self._index == {digest: block for block, digest in sealed.items()}, "index and blocks differ"
        assert len(self._index) == len(sealed), "two blocks of one digest"
        assert cached <= set(sealed), "a cached block that cannot be found"
        assert not free & set(sealed), "a free block that can be found"
        assert self.prefix_cache or not sealed

    def _unseal(self, block: int) -> None:
        """Take a block out of the index."""
        digest = self._hashes[block]
        if digest is not None:
            del self._index[digest]
            self._hashes[block] = None
