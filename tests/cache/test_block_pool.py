"""The pool against a small obvious model: states of blocks, what is found, what is evicted."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.cache.pool import BlockPool


@dataclass
class Table:
    """Blocks of one sequence; block i holds the content `content[: i + 1]`."""

    content: str
    blocks: list[int] = field(default_factory=list)


def chain(content: str) -> list[bytes]:
    """One digest for each prefix."""
    return [content[: end + 1].encode() for end in range(len(content))]


class PoolMachine(RuleBasedStateMachine):
    """Tables come with contents over a small alphabet, so that prefixes meet often."""

    @initialize(pages=st.integers(1, 12), prefix_cache=st.sampled_from([True, True, True, False]))
    def start(self, pages, prefix_cache):
        self.pool = BlockPool(pages, prefix_cache)
        self.pages = pages
        self.tables: list[Table] = []
        self.sealed: dict[bytes, int] = {}
        self.lru: list[int] = []  # first is evicted first

    def references(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for table in self.tables:
            for block in table.blocks:
                counts[block] = counts.get(block, 0) + 1
        return counts

    def unused(self) -> set[int]:
        return set(range(self.pages)) - set(self.references()) - set(self.lru)

    def take(self, count: int) -> list[int] | None:
        """Take from the pool what the model allows: any free blocks, then the oldest cached ones."""
        free, before = self.unused(), self.pool.references()
        taken = self.pool.take(count)
        if count > len(free) + len(self.lru):
            assert taken is None
            assert self.pool.references() == before
            return None
        assert taken is not None
        assert len(set(taken)) == len(taken) == count
        evicted = self.lru[: max(0, count - len(free))]
        assert set(taken) - free == set(evicted)
        self.lru = self.lru[len(evicted) :]
        self.sealed = {digest: block for digest, block in self.sealed.items() if block not in evicted}
        return taken

    @rule(content=st.text("ab", min_size=1, max_size=6))
    def open(self, content):
        """A sequence arrives: look up, hold what is there, take the rest."""
        found = self.pool.lookup(chain(content))
        expected = []
        for digest in chain(content):
            if digest not in self.sealed:
                break
            expected.append(self.sealed[digest])
        assert found == expected
        assert self.pool.in_use(found) == len(set(found) & set(self.references()))
        self.pool.hold(found)
        table = Table(content, list(found))
        self.tables.append(table)
        self.lru = [block for block in self.lru if block not in found]
        fresh = self.take(len(content) - len(found))
        if fresh is None:
            self.close(table)
        else:
            table.blocks += fresh

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def seal(self, data):
        """The head of a table becomes findable."""
        table = data.draw(st.sampled_from(self.tables))
        upto = data.draw(st.integers(1, len(table.blocks)))
        for block, digest in zip(table.blocks[:upto], chain(table.content), strict=False):
            self.pool.seal(block, digest)
            if self.pool.prefix_cache:
                self.sealed.setdefault(digest, block)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def forget(self, data):
        table = data.draw(st.sampled_from(self.tables))
        self.pool.forget(table.blocks)
        self.sealed = {digest: block for digest, block in self.sealed.items() if block not in table.blocks}

    @rule(content=st.text("ab", min_size=1, max_size=6))
    def drop(self, content):
        """Of a digest, whoever holds it."""
        block = self.sealed.pop(content.encode(), None)
        assert self.pool.find(content.encode()) == block
        self.pool.drop(content.encode())
        assert self.pool.find(content.encode()) is None
        self.lru = [other for other in self.lru if other != block]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def end(self, data):
        self.close(data.draw(st.sampled_from(self.tables)))

    @rule(count=st.integers(0, 14))
    def flood(self, count):
        """Take and give back without sealing: evicts."""
        taken = self.take(count)
        if taken is not None:
            self.pool.release(taken)

    def close(self, table):
        self.pool.release(table.blocks)
        self.tables.remove(table)
        held = self.references()
        for block in reversed(table.blocks):
            if block not in held and block in self.sealed.values():
                self.lru.append(block)

    @invariant()
    def agrees(self):
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        assert self.pool.references() == self.references()
        assert self.pool.free == len(self.unused())
        assert self.pool.cached == len(self.lru)
        assert self.pool.held == len(self.references())
        assert self.pool.available == self.pool.free + self.pool.cached
        for digest, block in self.sealed.items():
            assert self.pool.lookup([digest]) == [block]
        assert self.pool.lookup([b"unknown"]) == []


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.integers(1, 8))
def test_tail_is_evicted_before_head(pages):
    pool = BlockPool(pages)
    blocks = pool.take(pages)
    for block in blocks:
        pool.seal(block, bytes([block]))
    pool.release(blocks)
    for left in range(pages, 0, -1):
        assert pool.lookup([bytes([block]) for block in blocks]) == blocks[:left]
        assert pool.take(1) == [blocks[left - 1]]


def test_longest_unused_goes_first():
    pool = BlockPool(3)
    blocks = pool.take(3)
    for block in blocks:
        pool.seal(block, bytes([block]))
    for block in blocks:
        pool.release([block])
    pool.hold([blocks[0]])
    pool.release([blocks[0]])
    assert [pool.take(1) for _ in range(3)] == [[blocks[1]], [blocks[2]], [blocks[0]]]


def test_first_block_keeps_a_known_hash():
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.seal(first, b"x")
    pool.seal(second, b"x")
    assert pool.lookup([b"x"]) == [first]
    pool.release([first, second])
    assert (pool.free, pool.cached) == (1, 1)
    assert pool.lookup([b"x"]) == [first]


def test_misuse_is_caught():
    pool = BlockPool(3)
    (block,) = pool.take(1)
    with pytest.raises(AssertionError, match="not sealed"):
        pool.hold([block])
    pool.seal(block, b"x")
    with pytest.raises(AssertionError, match="sealed already"):
        pool.seal(block, b"y")
    pool.release([block])
    for misuse in (lambda: pool.release([block]), lambda: pool.seal(block, b"z"), lambda: pool.forget([block])):
        with pytest.raises(AssertionError, match="held by nobody"):
            misuse()
    with pytest.raises(AssertionError, match="0 pages"):
        BlockPool(0)
    pool.check()


def test_check_sees_damage():
    def damaged(damage):
        pool = BlockPool(4)
        held, idle = pool.take(2)
        pool.seal(idle, b"x")
        pool.release([idle])
        pool.check()
        damage(pool, held, idle)
        with pytest.raises(AssertionError):
            pool.check()

    damaged(lambda pool, held, idle: pool._free.append(held))
    damaged(lambda pool, held, idle: pool._free.append(pool._free[0]))
    damaged(lambda pool, held, idle: pool._free.pop())
    damaged(lambda pool, held, idle: pool._refs.__setitem__(held, 0))
    damaged(lambda pool, held, idle: pool._refs.__setitem__(held, -1))
    damaged(lambda pool, held, idle: pool._index.clear())
    damaged(lambda pool, held, idle: pool._index.__setitem__(b"y", held))
    damaged(lambda pool, held, idle: pool._hashes.__setitem__(held, b"x"))
    damaged(lambda pool, held, idle: pool._cached.__delitem__(idle))
