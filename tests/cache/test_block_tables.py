"""Tables of cache groups over one pool: what of a prefix is found, held and given back, against the plainest rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octavo.cache.pool import BlockPool
from octavo.cache.tables import BlockTables
from octavo.core.groups import GONE, CacheGroups
from octavo.core.layout import PAGE, pages_for

WINDOWS = st.lists(st.sampled_from([0, 1, 31, 32, 33, 34, 70, 200]), min_size=1, max_size=3).map(tuple)
CHAIN = [bytes([row]) * 32 for row in range(12)]


def seen(window: int, rows: int) -> range:
    """Full pages that a token behind so many rows sees."""
    return range(rows) if not window else range(max(0, rows * PAGE - window + 1) // PAGE, rows)


def filled(tables: BlockTables, rows: int) -> list[int]:
    """A computed sequence of full pages, held by its maker."""
    table = tables.pool.take(rows * tables.groups.count)
    tables.seal(table, CHAIN[:rows], 0)
    return table


@given(WINDOWS, st.integers(1, 12), st.data())
def test_the_longest_prefix_whose_windows_are_there_is_found(windows, rows, data):
    groups = CacheGroups(windows, 8)
    tables = BlockTables(BlockPool(rows * groups.count), groups)
    table = filled(tables, rows)
    lost = data.draw(st.sets(st.integers(0, len(table) - 1), max_size=4))
    tables.pool.forget([table[place] for place in lost])
    asked = data.draw(st.integers(0, 12))
    needed = [
        {row * len(windows) + group for group, window in enumerate(windows) for row in seen(window, count)}
        for count in range(asked + 1)
    ]
    there = set(range(len(table))) - lost
    longest = max(count for count, places in enumerate(needed) if places <= there)
    wanted = [
        table[row * len(windows) + group] if row in seen(window, longest) else GONE
        for row in range(longest)
        for group, window in enumerate(windows)
    ]
    found = tables.find(CHAIN[:asked])
    assert found == wanted
    assert tables.idle(found) == [0] * len(windows)
    tables.hold(found)
    tables.release(table)
    assert tables.pool.held == sum(block != GONE for block in found)
    tables.release(found)
    tables.pool.check()
    assert tables.pool.held == 0


@given(WINDOWS, st.lists(st.integers(1, PAGE - 1), min_size=1, max_size=3, unique=True).map(sorted), st.data())
def test_the_longest_begin_that_every_group_has_is_found(windows, ends, data):
    tables = BlockTables(BlockPool(16), CacheGroups(windows, 8))
    names = [CHAIN[0] + bytes(4 * rows) for rows in range(1, PAGE + 1)]
    table = tables.pool.take(2 * len(windows))
    for rows in ends:
        tables.seal_begun(table, 1, names[rows - 1], rows)
    asked = data.draw(st.integers(0, PAGE))
    known = max([rows for rows in ends if rows <= asked], default=0)
    assert tables.begun(names[:asked]) == (table[len(windows) :] if known else [], known)
    tables.pool.forget([data.draw(st.sampled_from(table[len(windows) :]))])
    assert tables.begun(names[:asked]) == ([], 0)
    tables.pool.check()


@given(WINDOWS, st.integers(1, 90), st.integers(1, 380), st.booleans())
def test_what_is_held_is_what_may_be_seen_and_never_more_than_was_claimed(windows, step, length, prefix_cache):
    groups = CacheGroups(windows, step)
    pool = BlockPool(groups.pages(length), prefix_cache)
    tables = BlockTables(pool, groups)
    table: list[int] = []
    computed = 0
    while computed < length:
        end = min(computed + step, length)
        before = len(table) // len(windows)
        fresh = pool.take((pages_for(end) - before) * len(windows))
        assert fresh is not None, "more was needed than was claimed"
        table += fresh
        tables.seal(table, CHAIN[: end // PAGE], computed // PAGE)
        tables.give_back(table, computed, end)
        for group, window in enumerate(windows):
            reach = max(0, end - window + 1) if window else 0
            for row, block in enumerate(table[group :: len(windows)]):
                assert (block == GONE) == ((row + 1) * PAGE <= reach)
        assert pool.held == sum(block != GONE for block in table)
        pool.check()
        computed = end
    tables.forget(table, CHAIN[: length // PAGE])
    assert set(tables.find(CHAIN)) <= {GONE}
    assert pool.cached == 0, "what was given back is still to be found"
    tables.release(table)
    assert pool.free == pool.pages


@given(WINDOWS, st.integers(1, 90), st.integers(0, 60), st.integers(1, 800))
def test_the_longest_sequence_is_the_longest_that_fits(windows, step, pages, most):
    groups = CacheGroups(windows, step)
    longest = groups.longest(pages, most)
    assert groups.pages(longest) <= pages
    assert longest == most or groups.pages(longest + 1) > pages


@given(WINDOWS, st.integers(1, 90), st.integers(0, 20), st.data())
def test_found_pages_count_within_the_bound_of_a_window(windows, step, rows, data):
    groups = CacheGroups(windows, step)
    found = [
        data.draw(st.integers(0, min(12, len(seen(window, 12))))) if window else data.draw(st.integers(0, 12))
        for window in windows
    ]
    bounds = [max((window + step - 2 + at) // PAGE + 1 for at in range(PAGE)) for window in windows]
    wanted = sum(
        min(rows + pages, bound) if window else rows + pages
        for window, pages, bound in zip(windows, found, bounds, strict=True)
    )
    assert groups.claim(rows, found) == wanted
    assert groups.claim(rows) == groups.claim(rows, [0] * len(windows))
