"""Tensors that a file stores as several and a model reads as one: put together when they are read. Knows no names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived, Tensor, shown
from octavo.core.errors import ModelError
from octavo.quant.plain import PLAIN, float32_values

Stored: TypeAlias = Tensor | Derived
Join: TypeAlias = Callable[[Mapping[str, Stored]], Mapping[str, Stored]]


def rows_apart(pattern: str) -> Join:
    """Join vectors to the rows of one matrix. pattern: of their names, which are {before}{number}{behind}.

    The matrix is called {before}{behind}; groups "before", "number" and "behind" say what is what.
    """

    def join(held: Mapping[str, Stored]) -> Mapping[str, Stored]:
        out, rows = dict(held), dict[str, dict[int, Stored]]()
        for name, tensor in held.items():
            if found := re.fullmatch(pattern, name):
                rows.setdefault(found["before"] + found["behind"], {})[int(found["number"])] = tensor
                del out[name]
        return out | {name: _stacked(name, each) for name, each in rows.items()}

    return join


def product(name: str, table: Stored, by: Stored, turned: bool = False) -> Derived:
    """The matrix table @ by, or, turned, table @ by^T. Raises ModelError for what cannot be multiplied."""
    shape = by.shape[::-1] if turned else by.shape
    if not len(table.shape) == len(shape) == 2 or table.shape[1] != shape[0]:
        raise ModelError(
            f"{table.file.path}: {shown(table.name)} {list(table.shape)} cannot be multiplied with {shown(by.name)} "
            f"{list(by.shape)}"
        )
    _plain([table, by])

    def build() -> Bytes:
        factor = _numbers(by).T if turned else _numbers(by)
        return np.ascontiguousarray(_numbers(table) @ factor, np.float32).view(np.uint8).reshape(-1)

    return Derived(name, "F32", (table.shape[0], shape[1]), (*table.parts, *by.parts), build)


def _stacked(name: str, numbered: Mapping[int, Stored]) -> Derived:
    """Vectors as the rows of a matrix."""
    rows = [numbered[at] for at in sorted(numbered)]
    first = rows[0]
    if len(numbered) <= max(numbered):
        told = f"rows {', '.join(map(str, sorted(numbered)))}; they are numbered from 0 on"
        raise ModelError(f"{first.file.path}: {shown(name)}: {told}")
    _plain(rows)
    if len(first.shape) != 1 or any((row.dtype, row.shape) != (first.dtype, first.shape) for row in rows):
        raise ModelError(f"{first.file.path}: {shown(name)}: rows of several types or shapes")
    parts = tuple(part for row in rows for part in row.parts)
    return Derived(
        name, first.dtype, (len(rows), *first.shape), parts, lambda: np.concatenate([row.read() for row in rows])
    )


def _plain(tensors: Sequence[Stored]) -> None:
    for tensor in tensors:
        if tensor.dtype not in PLAIN:
            what = f"{shown(tensor.name)} is stored as {tensor.dtype}"
            raise ModelError(f"{tensor.file.path}: {what}; it is put together with others as {', '.join(PLAIN)}")


def _numbers(tensor: Stored) -> npt.NDArray[np.float32]:
    return float32_values(tensor.read().reshape(tensor.shape[0], -1), tensor.dtype)
