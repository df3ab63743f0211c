"""One tensor of a checkpoint, and the mapped file it lies in: names, types, shapes, lazy bytes. No model.

Invariant: a `Tensor` exists only if its bytes lie inside its file, so `read` cannot reach outside. A `Derived` is made
of such tensors when it is read: what a file spreads over several of them, as one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from octavo.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

Bytes: TypeAlias = "npt.NDArray[np.uint8]"


class Mapped:
    """A file in memory, read-only, paged in as it is touched. Raises ModelError for what cannot be mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: mmap.mmap | bytes
        try:
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                self.mtime_ns = os.fstat(file.fileno()).st_mtime_ns
                # An empty file cannot be mapped; slices of a map are bytes, as slices of bytes are.
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelError(f"{path}: cannot be read: {reason}") from error

    def release(self, start: int, nbytes: int) -> None:
        """Say that these bytes were used: their pages need not stay in memory, and are read again if touched."""
        if isinstance(self.data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, first, start + nbytes - first)

    def close(self) -> None:
        """Let go of the file; the pages stay valid as long as an array over them lives."""
        self.data = b""
        self.size = 0


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array in a file.

    `dtype` is the format's own word ("F32", "BF16", "Q4_1", ...). `shape` is row-major: a matrix is (outputs, inputs).
    `start` counts bytes from the beginning of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Mapped = field(repr=False)
    start: int = 0

    def read(self) -> Bytes:
        """The stored bytes, a read-only view of the mapped file. uint8 [nbytes]"""
        if self.file.size < self.start + self.nbytes:
            raise ModelError(f"{self.file.path}: {shown(self.name)} cannot be read: the file was closed")
        import numpy as np  # late: who reads settings and vocabulary alone starts without it

        return np.frombuffer(self.file.data, np.uint8, self.nbytes, self.start)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The stored tensors that it consists of: itself."""
        return (self,)

    def release(self) -> None:
        """Say that the bytes were used."""
        self.file.release(self.start, self.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """A tensor that `build` makes of its parts. `dtype`, of quant/format.py, tells what its bytes mean.

    `build` raises ModelError or ValueError, each of one line, for parts that make no tensor. arranged: the same in
    a better form, its last axis in another `order`: int32 for each place, which place of this one it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    build: Callable[[], Bytes] = field(repr=False)
    arranged: Derived | None = field(default=None, repr=False)
    order: bytes = field(default=b"", repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return sum(part.nbytes for part in self.parts)

    @property
    def file(self) -> Mapped:
        """The file that errors name: that of the first part."""
        return self.parts[0].file

    def read(self) -> Bytes:
        """The bytes, row by row. uint8"""
        return self.build()

    def release(self) -> None:
        """Say that the bytes of all parts were used."""
        for part in self.parts:
            part.release()


Tensors: TypeAlias = "Mapping[str, Tensor | Derived]"


def shown(text: str) -> str:
    """A name from a file, quoted, on one line and not too long."""
    quoted = repr(text if len(text) <= 80 else text[:77] + "...")
    return quoted if quoted.isprintable() else ascii(text)
