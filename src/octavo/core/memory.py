"""Blocks of anonymous memory, and what the system is told of memory. Knows nothing of what is kept in it."""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum

import numpy as np
import numpy.typing as npt

HUGE = 2 << 20  # bytes of a huge page

Bytes = npt.NDArray[np.uint8]


class Advice(IntEnum):
    """madvise(2) on Linux: HUGEPAGE from 2.6.38, POPULATE from 5.14, COLLAPSE from 6.1."""

    HUGEPAGE = 14  # what is touched from now on comes in huge pages
    POPULATE_READ = 22  # have in memory what files hold
    POPULATE_WRITE = 23  # touch now, and leave what is there
    COLLAPSE = 25  # what is there in small pages becomes huge ones


def block(size: int) -> Bytes:
    """Zeroed bytes that start on a huge page; taken as they are touched, given back with the last array over them.

    Raises MemoryError.
    """
    try:
        mapped = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"no {size} bytes: {error}") from None
    whole = np.frombuffer(mapped, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + size]


def advise(data: Bytes, advice: Advice) -> int:
    """Tell the system of bytes that start on a page. 0, or the error's number: EINVAL where it does not know this."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return ctypes.get_errno() if madvise(data.ctypes.data, data.nbytes, advice) else 0
