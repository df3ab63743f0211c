"""One block of bytes kept in a file, under a head that says exactly what it is, and mapped from there.

A file is MAGIC, the lengths of head and block, the head (JSON), zeros up to a page, and the block. Invariant: what lies
under a file's final name was written whole, reached the disk (fdatasync, before the rename) and is never written again,
so any number of processes may map it, and two that write one name do no harm: the later one's is kept. A writer holds
a lock on its unfinished file, and unfinished files without one are removed. Knows no model: a head is compared, and
what the block means is its reader's.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from octavo.checkpoint.tensor import Bytes
from octavo.core.memory import Advice, advise

MAGIC = b"OCTAVO\0\1"  # the last byte: version of this form
SIZES = struct.Struct("<8sQQ")  # magic, bytes of the head, bytes of the block
HEAD_BYTES = 1 << 26  # most bytes of a head that is listed
SUFFIX, UNFINISHED = ".packed", ".part"
CHUNK = 8 << 20  # bytes written at once, at multiples of it: the system then keeps the file in huge pages
PART = 64 << 20  # bytes read ahead at a time

Head = Mapping[str, Any]
logger = logging.getLogger("octavo.checkpoint")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a folder: its head, and its bytes as a whole."""

    path: Path
    head: Head
    nbytes: int


def open_block(path: Path, head: Head, size: int) -> Bytes | None:
    """The block of this file, mapped and read; None where there is no such file, or it is not whole, or another.

    uint8 [size], read-only. Raises MemoryError where it cannot be mapped.
    """
    opening = _opening(head, size)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != len(opening) + size or file.read(len(opening)) != opening:
                return None
            return _mapped(file.fileno(), len(opening), size)
    except OSError:
        return None


def write_block(path: Path, head: Head, size: int, parts: Iterable[Bytes]) -> Bytes:
    """Write a file of this block, which comes in parts; give the block, mapped from it.

    The file gets its name once it has reached the disk, in the background: Python waits for that thread at its end.
    Raises OSError where there is no room or no permission, before the first part is asked for if that is known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    opening = _opening(head, size)
    file, unfinished = _create(path)
    try:
        os.posix_fallocate(file, 0, len(opening) + size)
        for chunk in _chunks(chain([np.frombuffer(opening, np.uint8)], parts)):
            _write(file, chunk)
        assert os.lseek(file, 0, os.SEEK_CUR) == len(opening) + size, "the parts are not the block"
        block = _mapped(file, len(opening), size)
    except BaseException:
        _drop(file, unfinished)
        raise
    threading.Thread(target=_keep, args=(file, unfinished, path), name="octavo-keep").start()
    return block


def kept_in(folder: Path) -> list[Kept]:
    """The files of a folder, by name."""
    return [found for path in sorted(folder.glob(f"*{SUFFIX}")) if (found := _kept(path)) is not None]


def _opening(head: Head, size: int) -> bytes:
    """All that comes before the block."""
    text = json.dumps(head, separators=(",", ":")).encode()
    data = SIZES.pack(MAGIC, len(text), size) + text
    return data + bytes(-len(data) % mmap.PAGESIZE)


def _kept(path: Path) -> Kept | None:
    """A file that is there and has a head that can be read."""
    with suppress(OSError, ValueError, struct.error), path.open("rb") as file:
        magic, length, _ = SIZES.unpack(file.read(SIZES.size))
        if magic == MAGIC and length <= HEAD_BYTES:
            head = json.loads(file.read(length))
            if isinstance(head, dict):
                return Kept(path, head, os.fstat(file.fileno()).st_size)
    return None


def _create(path: Path) -> tuple[int, Path]:
    """A new file, locked, under a name of its own beside `path`. Raises OSError."""
    while True:
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # else it was swept away before it was locked
                return file, unfinished
        except BaseException:
            _drop(file, unfinished)
            raise
        os.close(file)


def _mapped(file: int, start: int, size: int) -> Bytes:
    """The block of an open file, in memory from now on: the first step does not wait for the disk."""
    try:
        block = mmap.mmap(file, start + size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise MemoryError(f"no room to map {size} bytes of packed weights: {error}") from None
    whole: Bytes = np.frombuffer(block, np.uint8)
    advise(whole, Advice.HUGEPAGE)  # refused by a system built without huge pages
    for at in range(0, len(whole), PART):  # on an older system nothing happens, and pages come when touched
        advise(whole[at : at + PART], Advice.POPULATE_READ)
    return whole[start:]


def _chunks(parts: Iterable[Bytes]) -> Iterator[memoryview]:
    """The same bytes, CHUNK by CHUNK."""
    buffer, filled = bytearray(CHUNK), 0
    for part in parts:
        rest = part.data
        while len(rest):
            taken = rest[: CHUNK - filled]
            buffer[filled : filled + len(taken)] = taken
            rest, filled = rest[len(taken) :], filled + len(taken)
            if filled == CHUNK:
                yield memoryview(buffer)
                filled = 0
    yield memoryview(buffer)[:filled]


def _write(file: int, chunk: memoryview) -> None:
    """All of it. Raises OSError."""
    while len(chunk):
        chunk = chunk[os.write(file, chunk) :]


def _keep(file: int, unfinished: Path, path: Path) -> None:
    """Give a whole file its name, once the disk has it."""
    try:
        os.fdatasync(file)
        unfinished.replace(path)
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror or error)
        with suppress(OSError):
            unfinished.unlink()
    finally:
        os.close(file)


def _drop(file: int, unfinished: Path) -> None:
    """Remove what will not be finished; what is mapped of it stays valid."""
    with suppress(OSError):
        unfinished.unlink()
    os.close(file)


def _sweep(folder: Path) -> None:
    """Remove unfinished files whose writers are gone."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError), path.open("rb") as file:  # OSError: somebody writes it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
