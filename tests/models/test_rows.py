"""Row maps: every true row once, pairs that turn opposite each other, and fused tensors cut where they were joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.models.rows import neighbours, placed, projection_rows, projection_stored
from octavo.models.spec import Attn, Rope, places


@given(half=st.integers(1, 150), share=st.integers(0, 150))
def test_places_hold_every_dim_once_and_pairs_opposite(half: int, share: int) -> None:
    head_dim, dims = 2 * half, 2 * min(half, share)
    at = placed(head_dim, dims)
    assert len(at) == places(head_dim) and len(at) % 32 == 0
    assert sorted(at[at >= 0]) == list(range(head_dim))
    middle = len(at) // 2
    assert at[: dims // 2].tolist() == list(range(dims // 2))
    assert at[middle : middle + dims // 2].tolist() == list(range(dims // 2, dims))


def test_heads_that_fit_stay_as_they_are() -> None:
    for head_dim, dims in ((64, 64), (128, 128), (64, 0), (80, 0)):
        assert placed(head_dim, dims)[:head_dim].tolist() == list(range(head_dim))
    assert placed(8, 4).tolist() == [0, 1, 4, 5, 6, 7, *[-1] * 10, 2, 3, *[-1] * 14]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "dims"), [(4, 4, 32, 0), (7, 1, 24, 8), (6, 2, 80, 32)])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fused", ["", "stacked", "grouped"])
def test_fused_rows_are_found_again(
    heads: int, kv_heads: int, head_dim: int, dims: int, interleaved: bool, fused: str
) -> None:
    attn = Attn(heads, kv_heads, head_dim, Rope(dims=dims))
    names = [(part, head, dim) for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
             for head in range(count) for dim in range(head_dim)]  # fmt: skip
    if fused == "grouped":
        per = heads // kv_heads
        group = {"q": lambda head: (head // per, head % per), "k": lambda h: (h, per), "v": lambda h: (h, per + 1)}
        names.sort(key=lambda name: (*group[name[0]](name[1]), name[2]))
    for part in ("q", "k", "v"):
        stored = names if fused else [name for name in names if name[0] == part]
        assert projection_stored(part, attn, fused) == len(stored)
        rows = projection_rows(part, attn, fused, interleaved)
        turning = 0 if part == "v" else dims or head_dim
        at = placed(head_dim, turning)
        for head, row in enumerate(rows):
            for place, found in enumerate(row):
                if at[place] < 0:
                    assert found == -1
                    continue
                dim = int(neighbours(head_dim, turning)[at[place]]) if interleaved else int(at[place])
                assert stored[found] == (part, head, dim)


def test_neighbours_turn_together() -> None:
    assert neighbours(8, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 7]
    assert np.array_equal(neighbours(6, 0), np.arange(6))
