"""The memory of the pages: all there, aligned, zero, and touched without harm to what is in it."""

from __future__ import annotations

import mmap

import pytest

from octavo.cache import store
from octavo.cache.store import KvStore
from octavo.core.layout import KvLayout

LAYOUT = KvLayout(layers=3, kv_heads=2, head_dim=64)


def test_layers_lie_one_after_another_on_cache_lines() -> None:
    memory = KvStore(LAYOUT, 10)
    memory.touched()
    assert memory.data.nbytes == 10 * LAYOUT.page_bytes == 3 * memory.layer_stride
    assert memory.data.ctypes.data % 64 == 0
    assert memory.layer_stride % 64 == 0
    assert not memory.data.any()
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


def test_a_shortage_found_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART", 1 << 20)
    memory = KvStore(LAYOUT, 100)
    memory.touched()
    memory._fault = "Cannot allocate memory"
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        memory.check()
    memory.close()


def test_a_system_without_huge_pages_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(mmap.mmap):
        def madvise(self, *args: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Small)
    memory = KvStore(LAYOUT, 10)
    memory.touched()
    memory.close()
