"""From a plain folder to a quantized one, operation by operation, and what it cost.

Calibration tokens go through the model as it becomes: each matrix is rounded on what the rounded ones before it make of
them (GPTQ's order). Texts for perplexity go through the model twice at once, as it was and as it becomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Derived, Tensor
from octavo.compress.folder import Folder
from octavo.compress.model import Plain, open_plain
from octavo.compress.walk import Ids, Walk, Walked, known_rows, readers
from octavo.core.config import QuantizeConfig
from octavo.core.errors import ModelError
from octavo.models.entry import Entry
from octavo.models.spec import Moe
from octavo.program.ops import FfnIn, Floats, Head, Op, Qkv
from octavo.quant.compensate import Square, compensated, loss
from octavo.quant.compressed_file import coded_tensors
from octavo.quant.plain import float32_values, stored_bytes
from octavo.quant.rescale import channel_scales
from octavo.quant.search import Grid, coded, span_of

BITS = {"int4": 4, "int8": 8}
SPAN = {"int4": 64, "int8": 128}  # most inputs in a group
Progress = Callable[[float], None]
NORMS: dict[type[Op], str] = {Qkv: "attn_norm", FfnIn: "ffn_norm"}  # whose output an operation reads


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Token ids, texts of equal length. calibration: to quantize by; judged: to measure perplexity on; None: none."""

    calibration: Ids | None = None
    judged: Ids | None = None


def quantize(
    source: Source, out: Path, recipe: QuantizeConfig, texts: Texts, progress: Progress | None = None
) -> Report:
    """Write the folder `out`, which must not be there. Raises ModelError for a model or a place that does not do."""
    plain = open_plain(source)
    grids = {tensor.name: grid_of(recipe, tensor) for tensor in plain.linear()} | dict.fromkeys(plain.exact())
    if not any(grids.values()):
        raise ModelError(f"{source.path}: no matrix has inputs that groups of 32 divide")
    with Folder(source, out, grids, plain.heads()) as folder:
        job = _Job(plain, recipe, texts, folder, grids, progress or (lambda share: None))
        job.run()
        folder.finish()
    return Report(recipe, job.before, job.after, folder.bytes_before, folder.bytes_after, job.errors)


def grid_of(recipe: QuantizeConfig, tensor: Tensor | Derived) -> Grid | None:
    """The codes of a stored matrix; None where no group divides its inputs. Scales are stored in the matrix's type."""
    bits = BITS[recipe.scheme]
    span = span_of(tensor.shape[1], recipe.group or SPAN[recipe.scheme])
    return Grid(bits, span, recipe.symmetric, tensor.dtype == "BF16", search=bits == 4) if span else None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. errors: by matrix, the share of its output, or of itself without calibration, that is lost."""

    recipe: QuantizeConfig
    perplexity_before: float | None
    perplexity_after: float | None
    bytes_before: int
    bytes_after: int
    errors: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
            "perplexity": {"before": self.perplexity_before, "after": self.perplexity_after},
            "matrices": [{"name": name, "error": error} for name, error in self.errors.items()],
        }


@dataclass(slots=True, eq=False)
class _Job:
    """One model being quantized."""

    plain: Plain
    recipe: QuantizeConfig
    texts: Texts
    folder: Folder
    grids: dict[str, Grid | None]
    progress: Progress
    errors: dict[str, float] = field(default_factory=dict)
    before: float | None = None
    after: float | None = None
    _was: dict[int, Floats] = field(default_factory=dict)  # matrices of the operation at hand, as they were
    _is: dict[int, Floats] = field(default_factory=dict)  # and as they are now
    _calibration: Walk | None = None
    _judged: tuple[Walk, Walk] | None = None  # as it was, as it is

    def run(self) -> None:
        """All matrices, then the rest of the tensors."""
        self._begin()
        *ops, head = self.plain.program.ops
        for index, op in enumerate(ops):
            if isinstance(op, Walked):
                self._quantize(op)
            if self._calibration:
                self._calibration.step(op)
            for walk in self._judged or ():
                walk.step(op)
            self.progress((index + 1) / len(ops) * 0.99)
        for name, grid in self.grids.items():
            done = name.removesuffix(".weight") in self.errors
            if grid is not None and not done:  # of an operation that calibration does not know
                self._code(name, self.plain.stored(name), grid, None, None)
        self.folder.put_rest()
        if self._judged and isinstance(head, Head):
            self.before, self.after = (walk.perplexity(self.plain, head) for walk in self._judged)
        self.progress(1.0)

    def _begin(self) -> None:
        """Put the texts at the beginning of the model."""
        given = [ids for ids in (self.texts.calibration, self.texts.judged) if ids is not None]
        if not given:
            return
        table, numbers = known_rows(self.plain, *given)
        embed = next(number for number, key in self.plain.keys.items() if key == "embed")
        self._was[embed] = self._is[embed] = table
        if self.texts.calibration is not None:
            self._calibration = Walk(self.plain, self.texts.calibration, numbers[0], self._is)
        if self.texts.judged is not None:
            was, now = (Walk(self.plain, self.texts.judged, numbers[-1], dense) for dense in (self._was, self._is))
            self._judged = was, now

    def _quantize(self, op: Walked) -> None:
        """The matrices of one operation."""
        was: dict[int, Floats] = {}
        now: dict[int, Floats] = {}
        together = readers(op)
        read = self._calibration.reads(op) if self._calibration else [None] * len(together)
        for weights, rows in zip(together, read, strict=True):
            self._quantize_readers(op, {self.plain.keys[id(weight)]: id(weight) for weight in weights}, rows, was, now)
        for dense, values in ((self._was, was), (self._is, now)):
            embed = {number: dense[number] for number in dense if self.plain.keys[number] == "embed"}
            dense.clear()
            dense.update(embed | values)

    def _quantize_readers(
        self, op: Op, keys: Mapping[str, int], rows: Floats | None, was: dict[int, Floats], now: dict[int, Floats]
    ) -> None:
        """Matrices that read the same rows; No rows: not known. Puts them, before and after, by their numbers."""
        names = dict.fromkeys(self.plain.entries[key].tensor.name for key in keys)
        stored = {name: self.plain.stored(name) for name in names}
        known = rows is not None and len(rows) and any(self.grids[name] for name in names)
        hessian = rows.T @ rows if rows is not None and known else None
        scales = self._rescaled(op, keys, stored, hessian)
        coded = {}
        for name, values in stored.items():
            grid = self.grids[name]
            coded[name] = values if grid is None else self._code(name, values, grid, hessian, scales)
        for key, number in keys.items():
            name = self.plain.entries[key].tensor.name
            was[number], now[number] = self.plain.part(key, stored[name]), self.plain.part(key, coded[name])

    def _code(self, name: str, values: Floats, grid: Grid, hessian: Square | None, scales: Floats | None) -> Floats:
        """Write the codes of a stored matrix; give the numbers that they stand for."""
        raised = values if scales is None else values * scales
        if hessian is None or not self.recipe.gptq:
            found = coded(raised, grid)
        else:
            inner = hessian if scales is None else hessian / np.outer(scales, scales)
            found = compensated(raised, inner, grid, self.recipe.damping)
        self.folder.put(coded_tensors(name, found, self.plain.source.tensors[name].dtype))
        now = found.values() if scales is None else found.values() / scales
        self.errors[name.removesuffix(".weight")] = _error(values, now, hessian)
        return now

    def _rescaled(
        self, op: Op, keys: Mapping[str, int], stored: Mapping[str, Floats], hessian: Square | None
    ) -> Floats | None:
        """What the columns of an operation's matrices are multiplied by, and its norm, written, divided by; or None."""
        part, first = NORMS.get(type(op)), next(iter(keys))
        if hessian is None or not self.recipe.awq or part is None:
            return None
        at = first.rpartition(".")[0]
        layer = self.plain.spec.layers[int(at.partition(".")[2])]
        norm = self.plain.entries.get(f"{at}.{part}")
        grids = [(values, grid) for name, values in stored.items() if (grid := self.grids[name]) is not None]
        mixed = isinstance(layer.ffn, Moe) and type(op) is not Qkv
        if norm is None or layer.shared or mixed or len(grids) < len(stored):
            return None  # what else reads the norm would have to be multiplied too
        scales = channel_scales(grids, hessian)
        if scales is None:
            return None
        scales = self._divided(norm, scales)
        bias = self.plain.entries.get(f"{at}.{part}_bias")
        if bias is not None:
            self._divided(bias, scales)
        return scales

    def _divided(self, entry: Entry, scales: Floats) -> Floats:
        """Write a norm's numbers divided by `scales`; give the divisors that they have once rounded."""
        tensor = self.plain.source.tensors[entry.tensor.name]
        plus, was = np.float32(entry.plus), self.plain.stored(tensor.name)
        raw = stored_bytes((was + plus) / scales - plus, tensor.dtype)
        self.folder.put({tensor.name: (tensor.dtype, tensor.shape, raw)})
        now = float32_values(raw.reshape(1, -1), tensor.dtype)[0] + plus
        out: Floats = np.ones_like(now)
        np.divide(was + plus, now, out=out, where=(now != 0) & (was + plus != 0))
        return out


def _error(was: Floats, now: Floats, hessian: Square | None) -> float:
    """The share of a matrix's outputs that is lost, by their norms; of the matrix itself where nothing is known."""
    lost, whole = (
        float(np.square(part, dtype=np.float64).sum()) if hessian is None else loss(part, hessian)
        for part in (now - was, was)
    )
    return math.sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0
