"""The chain of page digests: equal exactly where tokens, adapter and salt are equal from the start."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cache.hash import begun_names, block_hashes, root_hash
from octavo.core.layout import PAGE

TOKENS = st.lists(st.integers(0, 3), max_size=5 * PAGE)


def obvious(tokens: list[int], parent: bytes) -> list[bytes]:
    """The definition, page by page."""
    digests = []
    for page in range(len(tokens) // PAGE):
        words = np.array(tokens[page * PAGE : (page + 1) * PAGE], dtype="<i4")
        parent = hashlib.sha256(parent + words.tobytes()).digest()
        digests.append(parent)
    return digests


@given(TOKENS, st.integers(-(2**63), 2**63 - 1), st.text(max_size=8))
def test_equals_the_definition(tokens, adapter, salt):
    root = root_hash(adapter, salt)
    assert block_hashes(tokens, root) == obvious(tokens, root)


@given(TOKENS, st.data())
def test_grown_in_parts_is_the_same_chain(tokens, data):
    root = root_hash(0, "")
    cut = data.draw(st.integers(0, len(tokens) // PAGE))
    hashes = block_hashes(tokens[: cut * PAGE], root)
    hashes += block_hashes(tokens, hashes[-1] if hashes else root, cut)
    assert hashes == block_hashes(tokens, root)


@given(TOKENS, TOKENS)
def test_equal_exactly_as_far_as_the_tokens_are(one, other):
    root = root_hash(0, "")
    pairs = zip(block_hashes(one, root), block_hashes(other, root), strict=False)
    for page, (left, right) in enumerate(pairs):
        assert (left == right) == (one[: (page + 1) * PAGE] == other[: (page + 1) * PAGE])


def test_adapters_and_salts_share_nothing():
    tokens = list(range(3 * PAGE))
    roots = [
        root_hash(adapter, salt) for adapter in (0, 1, 256, -1) for salt in ("", "a", "\x00", "a\x00", "ä", "\ud800")
    ]
    chains = [block_hashes(tokens, root) for root in roots]
    assert len({digest for chain in chains for digest in chain}) == 3 * len(roots)


@given(st.lists(st.integers(0, 3), max_size=PAGE), st.lists(st.integers(0, 3), max_size=PAGE), st.booleans())
def test_begun_pages_of_equal_tokens_alone_have_equal_names(one, other, apart):
    roots = root_hash(0, ""), root_hash(0, "b" if apart else "")
    names = begun_names(one, roots[0]), begun_names(other, roots[1])
    assert [len(each) for each in names] == [len(one), len(other)]
    for left, first in enumerate(names[0], 1):
        for right, second in enumerate(names[1], 1):
            assert (first == second) == (not apart and one[:left] == other[:right])
        assert len(first) > len(roots[0]) + 1  # no digest of any group


def test_largest_token_ids():
    tokens = [2**31 - 1, 0] * (PAGE // 2)
    assert block_hashes(tokens, root_hash(0, "")) == obvious(tokens, root_hash(0, ""))


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1])
def test_only_full_pages(length):
    assert len(block_hashes([1] * length, root_hash(0, ""))) == length // PAGE
