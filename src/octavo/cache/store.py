"""The memory of the pages: one block, cache-line aligned, in huge pages where the system gives them.

All of it is touched soon after the start, so that a shortage shows early and not under load: in the background and part
by part, since the system may need seconds for many gigabytes, and not at once, since the first request needs little of
it. Knows nothing of who holds which page; the layout within a page is the executor's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence

import numpy as np

from octavo.core.layout import KvLayout
from octavo.core.memory import Advice, advise, block

WAIT_SECONDS = 1.0  # for what is asked for first
PART = 4 << 20  # bytes touched at a time; nobody else gets memory meanwhile
COPIED = 1 << 20  # bytes copied at a time


class KvStore:
    """Pages of all layers: layer by layer, `layer_stride` bytes each, zero at first."""

    def __init__(self, layout: KvLayout, pages: int) -> None:
        """Take the memory. Raises MemoryError, naming the size."""
        self.pages = pages
        self.layer_stride = layout.page_bytes // layout.layers * pages
        self.size = layout.page_bytes * pages
        self._closed = False
        self._hurry = threading.Event()
        self._fault: str | None = None
        try:
            self.data = block(self.size)
        except MemoryError:
            raise MemoryError(f"no {self.size} bytes for {pages} pages of keys and values") from None
        if advise(self.data[:1], Advice.POPULATE_WRITE) == errno.EINVAL:
            self.data.fill(0)  # an older system; nobody uses the pages yet
        self._toucher = threading.Thread(target=self._touch, name="octavo-touch", daemon=True)
        self._toucher.start()

    def copy(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copy the content of pages (from, to). All are read before any is written, part by part."""
        sources, copies = np.array(pages).T
        width = self.layer_stride // self.pages
        part = max(COPIED // len(pages), 64)
        for layer in self.data.reshape(-1, self.pages, width):
            for start in range(0, width, part):
                content = layer[:, start : start + part]
                content[copies] = content[sources]

    def check(self) -> None:
        """Raises MemoryError where the system had less memory than it promised."""
        if self._fault is not None:
            raise MemoryError(f"no {self.size} bytes for {self.pages} pages of keys and values: {self._fault}")

    def close(self) -> None:
        """Stop touching. The memory goes when nobody refers to it any more."""
        self._closed = True
        self._join()

    def touched(self) -> None:
        """Wait until all memory is touched. Raises MemoryError as `check`."""
        self._join()
        self.check()

    def _join(self) -> None:
        """Have the touching go on at once, and wait for its end."""
        self._hurry.set()
        self._toucher.join()

    def _touch(self) -> None:
        """Part by part. What the pages hold stays, so they may be in use already."""
        with contextlib.suppress(OSError, AttributeError):  # what is asked for still comes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        self._hurry.wait(WAIT_SECONDS)
        for start in range(0, self.size, PART):
            if self._closed:
                return
            part = self.data[start : start + PART]
            advise(part, Advice.HUGEPAGE)
            error = advise(part, Advice.POPULATE_WRITE)
            if error not in (0, errno.EINVAL):
                self._fault = os.strerror(error)
                return
            advise(part, Advice.COLLAPSE)  # pages that were in use before the touching came to them
