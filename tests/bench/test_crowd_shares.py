"""What the crowd benchmark calls fair."""

from __future__ import annotations

import pytest

from octavo.bench.crowd import fair


@pytest.mark.parametrize(
    ("threads", "busy", "cores", "share"),
    [(2, 0, 2, 1), (2, 1, 2, 2 / 3), (2, 2, 2, 1 / 2), (2, 4, 2, 1 / 3), (1, 1, 2, 1), (1, 3, 2, 1 / 2)],
)
def test_fair_is_an_equal_part_of_what_it_has_alone(threads: int, busy: int, cores: int, share: float) -> None:
    assert fair(threads, busy, cores) == pytest.approx(share)
