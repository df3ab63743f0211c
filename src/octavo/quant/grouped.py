"""Integer codes with a scale, maybe a minimum, for each group of inputs: what GPTQ, AWQ and their like come down to.

A row of such a matrix is bytes of its own: the float16 scales of its groups, for forms with M their float16 minima, and
a byte for each code. The names tell form and group: "W4M/128". The exact numbers are

    W4   scale * (code - 8)                codes 0..15
    W8   scale * code                      codes -128..127
    W4M  scale * code + minimum            codes 0..15, minimum = -scale * zero rounded once to float16
    W8M  scale * code + minimum            codes -128..127, 128 less than stored, and the zero likewise

Where a matrix has no form, since its groups do not lie side by side (act-order), it is given as plain numbers ("F32"),
and beside them in the form that it has with its inputs sorted by group: who reads it so puts its inputs in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived
from octavo.kernels.weight import Array, Layout, Weight
from octavo.quant.module import Module

SPANS = (128, 96, 64, 32)  # of a form's groups: finer than a file's where those are larger, so inputs lose less
LAYOUTS = {"W8": Layout.W8, "W4": Layout.W4, "W4M": Layout.W4M, "W8M": Layout.W8M}
HALF = np.dtype("<f2")

Columns = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix as a file tells it: value = scale * (code - zero), with the scale and zero of the input's group."""

    codes: npt.NDArray[np.uint8]  # [rows, cols]
    scale: npt.NDArray[np.float32]  # [rows, groups]
    zero: npt.NDArray[np.int16]  # [rows, groups]


def blocks_of(cols: int, size: int) -> Columns:
    """The group of each input where groups lie side by side; the last may be smaller. [cols]"""
    return np.arange(cols) // size


def form_of(bits: int, symmetric: bool, columns: Columns) -> str:
    """The name of a matrix's form. `symmetric`: every zero is half of the codes. columns: the group of each input."""
    span = _span(columns)
    name = ("W4" if bits <= 4 else "W8") + ("" if symmetric else "M")
    return f"{name}/{span}" if span else "F32"


def weight_of(
    module: Module, shape: tuple[int, int], bits: int, symmetric: bool, columns: Columns, read: Callable[[], Integers]
) -> Derived:
    """The weight of a module of integers. columns: the group of each input."""
    form = form_of(bits, symmetric, columns)
    name, arranged = f"{module.name}.weight", None
    if form == "F32":
        order = np.argsort(columns, kind="stable")
        better = form_of(bits, symmetric, columns[order])
        if better != "F32":

            def build() -> Bytes:
                found = read()
                return rows_of(better, replace(found, codes=found.codes[:, order]), bits, columns[order])

            arranged = Derived(name, better, shape, module.parts, build, order=order.astype(np.int32).tobytes())
    return Derived(name, form, shape, module.parts, lambda: rows_of(form, read(), bits, columns), arranged)


def rows_of(form: str, integers: Integers, bits: int, columns: Columns) -> Bytes:
    """A matrix in a form that `form_of` gave. uint8 [rows, bytes of a row]. Raises ValueError for a wrong zero."""
    if form == "F32":
        return _numbers(integers, columns).view(np.uint8)
    name, _, span = form.partition("/")
    first = columns[:: int(span)]
    scale, zero = integers.scale[:, first], integers.zero[:, first]
    if name.endswith("M"):
        less = 128 if name == "W8M" else 0
        return _row([scale, scale * (less - zero)], integers.codes - np.uint8(less))
    if (zero != 1 << (bits - 1)).any():
        raise ValueError(f"is said to be symmetric, but has zeros other than {1 << (bits - 1)}")
    shift = (8 if name == "W4" else 0) - (1 << (bits - 1))
    return _row([scale], integers.codes + np.uint8(shift % 256))


def packer(name: str, span: int) -> Callable[[Array], Weight]:
    """What makes a packed Weight of rows of bytes in the form of this name."""

    def pack(raw: Array) -> Weight:
        heads = 4 if name.endswith("M") else 2
        groups = raw.shape[1] // (span + heads)
        halves = [_halves(raw[:, at * groups : (at + 2) * groups]) for at in range(0, heads, 2)]
        codes = np.ascontiguousarray(raw[:, heads * groups :]).view(np.uint8)
        if name.startswith("W8"):
            signed = codes.view(np.int8)
            return Weight.int8(signed, *halves) if name == "W8" else Weight.int8_min(signed, *halves)
        return Weight.int4(codes, *halves) if name == "W4" else Weight.int4_min(codes, *halves)

    return pack


def _span(columns: Columns) -> int:
    """The widest of SPANS at which the inputs fall into whole groups; 0 where none does."""
    for span in SPANS:
        if columns.size % span == 0:
            runs = columns.reshape(-1, span)
            if (runs == runs[:, :1]).all():
                return span
    return 0


def _numbers(integers: Integers, columns: Columns) -> npt.NDArray[np.float32]:
    """The values themselves, each rounded once. [rows, cols]"""
    values = integers.codes.astype(np.float32)
    values -= integers.zero[:, columns]
    values *= integers.scale[:, columns]
    return values


def _row(heads: list[npt.NDArray[np.float32]], codes: npt.NDArray[np.uint8]) -> Bytes:
    """Scales and minima as float16, then the codes. A scale beyond float16 becomes infinite: packing refuses it."""
    with np.errstate(over="ignore"):
        halves = [np.ascontiguousarray(head.astype(HALF)).view(np.uint8) for head in heads]
    return np.concatenate([*halves, codes], axis=1)


def _halves(raw: Array) -> npt.NDArray[np.float16]:
    """float16 [rows, groups]. Raises ValueError for NaN or infinity."""
    values = np.ascontiguousarray(raw).view(HALF)
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity, or a number beyond float16, as a scale or minimum")
    return np.asarray(values, np.float16)
