"""The memory of the pages: all there, aligned, zero, and touched without harm to what is in it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest

from octavo.cache import store
from octavo.cache.store import KvStore
from octavo.core.layout import KvLayout
from octavo.core.memory import Advice

LAYOUT = KvLayout(layers=3, kv_heads=2, head_dim=64)


def test_layers_lie_one_after_another_on_cache_lines() -> None:
    memory = KvStore(LAYOUT, 10)
    memory.touched()
    assert memory.data.nbytes == 10 * LAYOUT.page_bytes == 3 * memory.layer_stride
    assert memory.data.ctypes.data % 64 == 0
    assert memory.layer_stride % 64 == 0
    assert not memory.data.any()
    memory.close()


@pytest.mark.parametrize("part", [store.COPIED, 1000])
def test_pages_are_copied_in_all_layers_and_read_before_any_is_written(monkeypatch, part: int) -> None:
    monkeypatch.setattr(store, "COPIED", part)
    memory = KvStore(LAYOUT, 5)
    memory.touched()
    pages = memory.data.reshape(3, 5, -1)
    pages[:] = np.random.default_rng(0).integers(0, 256, pages.shape, np.uint8)
    before = pages.copy()
    memory.copy(((0, 1), (1, 2), (2, 0), (1, 4)))
    np.testing.assert_array_equal(pages, before[:, [2, 0, 1, 3, 1]])
    memory.close()


def test_touching_leaves_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART", 4096)
    memory = KvStore(LAYOUT, 40)
    memory.data[:] = 7  # while the background still touches
    memory.touched()
    assert (memory.data == 7).all()
    memory.close()
    memory.close()


def test_more_than_there_can_be_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=r"no \d+ bytes for \d+ pages of keys and values"):
        KvStore(LAYOUT, 2**60)


@pytest.mark.parametrize("unknown", [*Advice, None])
def test_an_older_system_serves_too(monkeypatch: pytest.MonkeyPatch, unknown: Advice | None) -> None:
    """One that knows nothing of an advice, or of any."""
    known = store.advise

    def advise(data: np.ndarray, advice: Advice) -> int:
        return errno.EINVAL if unknown in (advice, None) else known(data, advice)

    monkeypatch.setattr(store, "advise", advise)
    memory = KvStore(LAYOUT, 10)
    memory.touched()
    assert not memory.data.any()
    memory.data[:] = 7
    memory.close()


def test_touching_waits_for_what_comes_first_and_ends_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAIT_SECONDS", 3600)
    memory = KvStore(LAYOUT, 2**14)
    assert memory.size > 200 << 20
    memory.data[:4096] = 7
    memory.close()
    assert resident(memory.data) < 8 << 20
    whole = KvStore(LAYOUT, 2**10)
    whole.data[5000:6000] = 7
    whole.touched()
    assert resident(whole.data) == pytest.approx(whole.size, abs=4 << 20)
    assert whole.data[5000:6000].min() == 7 and np.count_nonzero(whole.data) == 1000


def resident(data: np.ndarray) -> int:
    """Bytes that are in memory of the mappings these bytes lie in."""
    first, last, found, inside = data.ctypes.data, data.ctypes.data + data.nbytes, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) < last and first < int(span[2], 16)
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def test_a_shortage_met_while_touching_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def advise(data: np.ndarray, advice: Advice) -> int:
        return errno.ENOMEM if advice is Advice.POPULATE_WRITE and data.nbytes > 1 else 0

    monkeypatch.setattr(store, "advise", advise)
    memory = KvStore(LAYOUT, 10)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        memory.touched()
    memory.close()
