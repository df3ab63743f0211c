"""The pool against a small obvious model: states of blocks, what is found, what is evicted."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.cache.pool import BlockPool
from octavo.core.layout import PAGE


@dataclass
class Table:
    """Blocks of one sequence; block i holds the content `content[: i + 1]`, as far as it is computed."""

    content: str
    blocks: list[int] = field(default_factory=list)


def chain(content: str) -> list[bytes]:
    """One digest for each prefix."""
    return [content[: end + 1].encode() for end in range(len(content))]


def begun(content: str, rows: int) -> bytes:
    """The name of the first rows of the last page of a content."""
    return f"{content}:{rows}".encode()


class PoolMachine(RuleBasedStateMachine):
    """Tables come with contents over a small alphabet, so that prefixes meet often."""

    @initialize(pages=st.integers(1, 12), prefix_cache=st.sampled_from([True, True, True, False]))
    def start(self, pages, prefix_cache):
        self.pool = BlockPool(pages, prefix_cache)
        self.pages = pages
        self.tables: list[Table] = []
        self.sealed: dict[bytes, int] = {}
        self.rows: dict[int, int] = {}  # of named blocks
        self.lru: list[int] = []  # first is evicted first, begun pages before full ones

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
        order = sorted(self.lru, key=lambda block: self.rows[block] == PAGE)
        evicted = order[: max(0, count - len(free))]
        assert set(taken) - free == set(evicted)
        self.lru = [block for block in self.lru if block not in evicted]
        self.unname(evicted)
        return taken

    def unname(self, blocks: list[int]) -> None:
        self.sealed = {name: block for name, block in self.sealed.items() if block not in blocks}
        self.rows = {block: rows for block, rows in self.rows.items() if block not in blocks}

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
            if not self.pool.prefix_cache:
                continue
            known = self.sealed.setdefault(digest, block)
            self.rows[known] = PAGE
            if known != block:  # which takes over the names of the begun page
                self.sealed = {name: known if other == block else other for name, other in self.sealed.items()}
                self.rows.pop(block, None)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), rows=st.integers(1, 3))
    def begin(self, data, rows):
        """Some rows of a table's last page become findable, where nobody else holds it and fewer were."""
        table = data.draw(st.sampled_from(self.tables))
        block, name = table.blocks[-1], begun(table.content, rows)
        if self.references()[block] > 1 or self.rows.get(block, 0) >= rows:
            return
        self.pool.seal(block, name, rows)
        if self.pool.prefix_cache and name not in self.sealed:
            self.sealed[name] = block
            self.rows[block] = rows

    @rule(content=st.text("ab", min_size=1, max_size=3), rows=st.integers(1, 3))
    def go_on(self, content, rows):
        """A sequence goes on in a begun page, if nobody holds it and no more of it has names; else it was of use."""
        known = [self.sealed.get(name) for name in (*chain(content)[:-1], begun(content, rows))]
        assert self.pool.find(begun(content, rows)) == known[-1]
        if None in known:
            return
        ends = known[-1] in self.lru and self.rows[known[-1]] == rows
        assert self.pool.ends(known[-1], rows) == ends
        if ends:
            self.pool.hold(known)
            self.tables.append(Table(content, known))
            self.lru = [block for block in self.lru if block not in known]
        else:
            self.pool.used(known[-1:])
            if known[-1] in self.lru:
                self.lru.remove(known[-1])
                self.lru.append(known[-1])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def forget(self, data):
        table = data.draw(st.sampled_from(self.tables))
        self.pool.forget(table.blocks)
        self.unname(table.blocks)

    @rule(content=st.text("ab", min_size=1, max_size=6))
    def drop(self, content):
        """Of a digest, whoever holds it."""
        block = self.sealed.get(content.encode())
        assert self.pool.find(content.encode()) == block
        self.pool.drop(content.encode())
        assert self.pool.find(content.encode()) is None
        self.unname([block])
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


def test_a_full_page_that_is_known_gives_its_other_names_to_the_first():
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.seal(first, b"x")
    pool.seal(second, b"x:3", 3)
    assert pool.find(b"x:3") == second
    pool.seal(second, b"x")
    assert pool.find(b"x:3") == pool.find(b"x") == first
    pool.release([first, second])
    assert (pool.free, pool.cached) == (1, 1)
    pool.check()


def test_a_begun_page_is_held_by_one():
    pool = BlockPool(1)
    (block,) = pool.take(1)
    pool.seal(block, b"x:3", 3)
    with pytest.raises(AssertionError, match="not sealed"):
        pool.hold([block])
    pool.release([block])
    assert pool.ends(block, 3) and not pool.ends(block, 2)
    pool.hold([block])
    assert not pool.ends(block, 3)
    pool.check()


def test_begun_pages_are_evicted_before_full_ones():
    pool = BlockPool(3)
    blocks = pool.take(3)
    for block, rows in zip(blocks, (PAGE, 3, 5), strict=True):
        pool.seal(block, bytes([block]), rows)
        pool.release([block])
    pool.used(blocks[1:2])
    assert [pool.take(1) for _ in range(3)] == [[blocks[2]], [blocks[1]], [blocks[0]]]


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
    damaged(lambda pool, held, idle: pool._names.__setitem__(held, [b"x"]))
    damaged(lambda pool, held, idle: pool._rows.__setitem__(held, 3))
    damaged(lambda pool, held, idle: pool._full.__delitem__(idle))
