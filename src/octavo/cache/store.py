"""The memory of the pages: one block, cache-line aligned, in huge pages where the system gives them.

All of it is touched from the start on, so that a shortage shows early and not under load: the first part before the
store is handed out, the rest in the background, since the system may need seconds for many gigabytes. Knows nothing of
who holds which page; the layout within a page is the executor's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading

from octavo.core.layout import KvLayout
from octavo.kernels.memory import huge_block

PART = 64 << 20  # bytes touched at a time
MADV_POPULATE_WRITE = 23  # Linux 5.14; maps pages for writing and leaves what they hold


class KvStore:
    """Pages of all layers: layer by layer, `layer_stride` bytes each, zero at first."""

    def __init__(self, layout: KvLayout, pages: int) -> None:
        """Take the memory. Raises MemoryError, naming the size."""
        self.pages = pages
        self.layer_stride = layout.page_bytes // layout.layers * pages
        self.size = layout.page_bytes * pages
        self._closed = False
        self._fault: str | None = None
        try:
            self.data = huge_block(self.size)
        except MemoryError:
            raise MemoryError(f"no {self.size} bytes for {pages} pages of keys and values") from None
        self._populate(0)
        self.check()
        self._toucher = threading.Thread(target=self._populate_rest, name="octavo-touch", daemon=True)
        self._toucher.start()

    def check(self) -> None:
        """Raises MemoryError where the system had less memory than it promised."""
        if self._fault is not None:
            raise MemoryError(f"no {self.size} bytes for {self.pages} pages of keys and values: {self._fault}")

    def close(self) -> None:
        """Stop touching. The memory goes when nobody refers to it any more."""
        self._closed = True
        self._toucher.join()

    def touched(self) -> None:
        """Wait until all memory is touched. Raises MemoryError as `check`."""
        self._toucher.join()
        self.check()

    def _populate_rest(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # what is asked for already comes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        for start in range(PART, self.size, PART):
            if self._closed or self._fault is not None:
                return
            self._populate(start)

    def _populate(self, start: int) -> None:
        """Touch one part. What it holds stays, so that pages may be in use already."""
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        length = min(PART, self.size - start)
        if madvise(self.data.ctypes.data + start, length, MADV_POPULATE_WRITE) == 0:
            return
        error = ctypes.get_errno()
        if start == 0 and error == 22:  # EINVAL: an older system; nobody uses the pages yet
            self.data.fill(0)
        elif error != 22:
            self._fault = os.strerror(error)
