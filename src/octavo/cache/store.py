"""The memory of the pages: one block, cache-line aligned, in huge pages where the system gives them.

Knows nothing of who holds which page; the layout within a page is the executor's.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from octavo.core.layout import KvLayout

HUGE = 2 << 20  # bytes of a huge page


class KvStore:
    """Pages of all layers: layer by layer, `layer_stride` bytes each."""

    def __init__(self, layout: KvLayout, pages: int) -> None:
        """Take and touch the memory. Raises MemoryError, naming the size."""
        self.pages = pages
        self.layer_stride = layout.page_bytes // layout.layers * pages
        size = layout.page_bytes * pages
        try:
            self._map = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise MemoryError(f"no {size} bytes for {pages} pages of keys and values: {error}") from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._map, np.uint8)
        start = -whole.ctypes.data % HUGE
        self.data: npt.NDArray[np.uint8] = whole[start : start + size]
        self.data.fill(0)  # now, so that a shortage shows at the start and not under load
