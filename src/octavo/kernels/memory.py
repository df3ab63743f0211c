"""Blocks of anonymous memory in huge pages, where the system gives them. Knows nothing of what is kept in them."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

HUGE = 2 << 20  # bytes of a huge page


def huge_block(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start on a huge page; taken when touched, given back with the last array over them.

    Raises MemoryError.
    """
    try:
        block = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"no {size} bytes: {error}") from None
    advise_huge(block)
    whole = np.frombuffer(block, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def advise_huge(block: mmap.mmap) -> None:
    """Ask for huge pages; a system built without them says no, and serves too."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
