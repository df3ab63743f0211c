"""Texts on their way through a model, operation by operation, all their tokens at once. Knows no codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from octavo.compress.model import Plain
from octavo.core.layout import pages_for
from octavo.kernels.weight import Layout, Weight
from octavo.program.batch import Batch, HeadRows
from octavo.program.ops import FfnIn, Floats, Head, MoeIn, MoeOut, Op, Proj, Qkv, Route
from octavo.program.reference import Reference, Registers, matrices

Ids = npt.NDArray[np.int32]  # [texts, tokens of each]
Walked = Qkv | Proj | FfnIn | Route | MoeIn | MoeOut  # operations with matrices that a walk brings
LOGITS = 1 << 24  # most logits at a time


class Walk:
    """Texts of equal length in a model whose matrices `dense` holds by the id of their Weight.

    numbers: the texts as rows of the embedding that is in `dense`.
    """

    def __init__(self, plain: Plain, ids: Ids, numbers: Ids, dense: Mapping[int, Floats]) -> None:
        self._ids = ids
        self._at = Registers()
        self._batch = _batch(numbers, plain.program.kv.groups)
        self._executor = Reference(plain.program, dense)
        self._executor.allocate(self._batch.tables.size)

    def reads(self, op: Walked) -> list[Floats]:
        """What each of `readers` of the operation reads. [rows, inputs] each"""
        h, pairs = self._at.h[op.source], self._at.pairs
        match op:
            case MoeIn():
                return [h[pairs.tokens[pairs.rows(expert)]] for expert in range(len(op.experts))]
            case MoeOut():
                return [h[pairs.rows(expert)] for expert in range(len(op.weights))]
            case _:
                return [h]

    def step(self, op: Op) -> None:
        """Do the operation."""
        self._executor.step(op, self._at, self._batch)

    def perplexity(self, plain: Plain, op: Head) -> float:
        """exp of the mean loss over the second half of each text, once all before the head is done."""
        texts, length = self._ids.shape
        rows = (np.arange(texts)[:, None] * length + np.arange(length // 2, length - 1)).reshape(-1)
        targets = self._ids[:, length // 2 + 1 :].reshape(-1)
        batch = replace(self._batch, head=_head_rows(rows))
        largest, total = np.full(len(rows), -np.inf), np.zeros(len(rows))
        chosen = np.empty(len(rows))
        for first, part, dense in _slices(plain, op, max(1, LOGITS // len(rows))):
            at = Registers(x=self._at.x)
            Reference(plain.program, dense).step(part, at, batch)
            logits = at.x.astype(np.float64)
            higher = np.maximum(largest, logits.max(axis=1))
            total = total * np.exp(largest - higher) + np.exp(logits - higher[:, None]).sum(axis=1)
            largest = higher
            inside = (targets >= first) & (targets < first + logits.shape[1])
            chosen[inside] = logits[inside, targets[inside] - first]
        return float(np.exp((np.log(total) + largest - chosen).mean()))


def readers(op: Walked) -> list[tuple[Weight, ...]]:
    """The matrices of an operation, together those that read the same rows."""
    match op:
        case MoeIn():
            return [tuple(w for w in (expert.gate, expert.up) if w is not None) for expert in op.experts]
        case MoeOut():
            return [(weight,) for weight in op.weights]
        case _:
            return [matrices(op)]


def known_rows(plain: Plain, *texts: Ids) -> tuple[Floats, list[Ids]]:
    """The rows of the embedding that texts use, and the texts as numbers of those rows."""
    used = np.unique(np.concatenate([ids.reshape(-1) for ids in texts]))
    return plain.rows("embed", used), [np.searchsorted(used, ids).astype(np.int32) for ids in texts]


def _slices(plain: Plain, op: Head, size: int) -> Iterator[tuple[int, Head, dict[int, Floats]]]:
    """The head cut into vocabularies of `size`: the first token of each, its operation and its matrix."""
    for first in range(0, plain.spec.vocab, size):
        last = min(first + size, plain.spec.vocab)
        weight = Weight(Layout.F32, last - first, op.weight.cols, 0, np.empty(0, np.uint8))
        part = replace(op, weight=weight, bias=None if op.bias is None else op.bias[first:last])
        yield first, part, {id(weight): plain.rows(plain.head, np.arange(first, last))}


def _batch(ids: Ids, groups: int) -> Batch:
    """Each text one run in pages of its own, from its beginning. groups: cache groups, see KvLayout."""
    texts, length = ids.shape
    pages = groups * pages_for(length)
    return Batch(
        ids=ids.reshape(-1),
        positions=np.tile(np.arange(length, dtype=np.int32), texts),
        starts=np.arange(texts + 1, dtype=np.int32) * np.int32(length),
        kv_lens=np.full(texts, length, np.int32),
        slots=np.arange(texts, dtype=np.int32),
        tables=np.arange(texts * pages, dtype=np.int32).reshape(texts, pages),
        head=_head_rows(np.empty(0, np.int64)),
    )


def _head_rows(rows: npt.NDArray[np.int64]) -> HeadRows:
    """Rows whose logits are wanted, and nothing drawn."""
    count = len(rows)
    ints, floats = np.zeros(count, np.int32), np.zeros(count, np.float32)
    starts, none = np.zeros(count + 1, np.int64), np.empty(0, np.int32)
    return HeadRows(
        rows.astype(np.int32), ints, ints, floats, ints, floats, floats, floats, floats, floats,
        np.zeros(count, np.uint64), np.zeros(count, np.int64), starts, none, ints, starts, none,
        np.empty(0, np.float32),
    )  # fmt: skip
