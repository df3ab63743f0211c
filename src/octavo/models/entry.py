"""One weight to load: which tensor it is read from, and how those bytes become ours. Knows no name and no spec."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived, Tensor
from octavo.models.rows import Rows
from octavo.quant.format import Format, format_of, pack, vector
from octavo.quant.plain import float32_values

LINE = 64  # bytes of a cache line

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One weight to load. `shape` is ours; `form` None: float32 numbers.

    `rows`: which stored rows (of a vector: elements) it consists of, see models/rows.py. transposed: stored
    [inputs, outputs]. plus: added to every stored number of a vector. unit: rows of a matrix are
    divided by their lengths. index: which of the parts that lie in one tensor, one after the other; -1: it is whole.
    exact: never in codes. blocks: of so many blocks of rows each is stored the other way round; 0: none. order: see
    Weight.
    """

    key: str
    tensor: Tensor | Derived
    form: Format | None
    shape: tuple[int, ...]
    rows: Rows | None = None
    transposed: bool = False
    plus: float = 0.0
    unit: bool = False
    index: int = -1
    exact: bool = False
    blocks: int = 0
    order: bytes = b""

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of what is read of the tensor."""
        return self.tensor.shape if self.index < 0 else self.tensor.shape[1:]

    @property
    def stored_bytes(self) -> int:
        """Bytes of what is read of the tensor."""
        return self.tensor.nbytes // (1 if self.index < 0 else self.tensor.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        if self.form is None:
            return math.prod(self.shape) * 4
        return self.form.packed_bytes(*self.shape)

    @property
    def recipe(self) -> list[str | int | float]:
        """What its packed bytes depend on beside the stored ones, as JSON."""
        rows = "" if self.rows is None else hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        form: list[str | int | float] = [] if self.form is None else [self.form.layout.name, self.form.group]
        return [*self.shape, rows, self.transposed, self.plus, self.unit, self.index, self.blocks, *form]

    @property
    def room(self) -> int:
        """Bytes in a block: up to the next cache line."""
        return -(-self.nbytes // LINE) * LINE


def read(entry: Entry, raw: Bytes) -> Bytes:
    """One weight, packed, of its tensor's bytes. uint8 [entry.nbytes]. Raises ValueError for what are no numbers."""
    tensor, stored = entry.tensor, entry.stored
    raw = raw if entry.index < 0 else raw.reshape(tensor.shape[0], -1)[entry.index]
    if entry.form is None:
        values = vector(raw, tensor.dtype).reshape(stored) + np.float32(entry.plus)
        values = values if len(entry.shape) == 2 else values.reshape(-1)
        return np.ascontiguousarray(picked(values, entry.rows)).view(np.uint8).reshape(-1)
    rows: Bytes = raw.reshape(math.prod(stored[:-1]), -1)
    if entry.transposed:
        size = rows.shape[1] // stored[1]  # bytes of a number
        rows = rows.reshape(*stored, size).swapaxes(0, 1).reshape(stored[1], -1)
    if entry.blocks:
        return pack(entry.form, turned_blocks(entry, picked(rows, entry.rows)), entry.shape[1]).data
    if entry.unit:
        rows = unit_rows(float32_values(rows, tensor.dtype)).view(np.uint8)
    return pack(entry.form, picked(rows, entry.rows), entry.shape[1]).data


def turned_blocks(entry: Entry, rows: Bytes) -> Bytes:
    """Stored rows as numbers, each block of them the other way round. uint8 [entry's rows, bytes of float32]"""
    form = format_of(entry.tensor.dtype, "float32")
    assert form is not None, "checked with the headers"
    values = pack(form, rows, entry.stored[-1]).dequantize()
    turned = values.reshape(entry.blocks, -1, values.shape[1]).swapaxes(1, 2).reshape(entry.shape)
    return np.ascontiguousarray(turned).view(np.uint8)


def unit_rows(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows divided by their lengths. [rows, cols]"""
    lengths = np.maximum(np.sqrt((values.astype(np.float64) ** 2).sum(axis=1, keepdims=True)), 1e-12)
    return np.asarray(values / lengths, np.float32)


def picked(values: npt.NDArray[T], rows: Rows | None) -> npt.NDArray[T]:
    """The rows of a map, zeros where it says -1."""
    if rows is None:
        return values
    out = values[rows]
    out[rows < 0] = 0
    return out
