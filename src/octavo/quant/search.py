"""Numbers to integer codes: for each group of inputs the scale, and maybe zero, that lose least.

value = scale * (code - zero), codes 0..2^bits - 1, zero 2^(bits - 1) where the grid is symmetric. Of a few scales, from
the one that reaches the group's extremes down to one that clips them, each is judged by what remains after the scale is
fitted to its codes by least squares; so a group never loses more than by plain rounding. Knows no file and no layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import from_bfloat16, to_bfloat16

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

SHRINKS = tuple(1.0 - 0.3 * step / 7 for step in range(8))  # 1 down to 0.7; the first is plain rounding
SPANS = (128, 96, 64, 32)  # sizes of a group that the kernels like


@dataclass(frozen=True, slots=True)
class Grid:
    """Which codes there are, and how scales are rounded: always to float16, and to bfloat16 too where `coarse`.

    search False: plain rounding. What a search gains with 8 bits is below what float32 sums tell apart.
    """

    bits: int
    group: int
    symmetric: bool = True
    coarse: bool = False
    search: bool = True

    @property
    def middle(self) -> int:
        """The code of zero in a symmetric grid."""
        return 1 << (self.bits - 1)

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A matrix as codes. codes  # uint8 [rows, cols]; scale  # float32 [rows, groups]; zero  # uint8 [rows, groups]"""

    grid: Grid
    codes: Codes
    scale: Floats
    zero: Codes

    def values(self) -> Floats:
        """The numbers that the codes stand for. float32 [rows, cols]"""
        group = self.codes.shape[1] // self.scale.shape[1]
        return decode(self.codes, np.repeat(self.scale, group, axis=1), np.repeat(self.zero, group, axis=1))


def span_of(cols: int, largest: int) -> int:
    """The largest size of a group, at most `largest`, that divides the inputs; 0 where none does."""
    return next((span for span in SPANS if span <= largest and cols % span == 0), 0)


def coded(values: Floats, grid: Grid, importance: Floats | None = None) -> Coded:
    """The codes of a matrix, each group by itself. Raises ValueError for a number too large for float16 scales.

    values  # float32 [rows, cols], cols a multiple of grid.group; importance  # [cols], of an input's error
    """
    rows, cols = values.shape
    groups = values.reshape(rows, cols // grid.group, grid.group)
    weight = None if importance is None else importance.reshape(1, -1, grid.group)
    scale, zero = fitted(groups, grid, weight)
    codes = encode(groups, scale[..., None], zero[..., None], grid)
    return Coded(grid, codes.reshape(rows, cols), scale, zero)


def fitted(groups: Floats, grid: Grid, importance: Floats | None = None) -> tuple[Floats, Codes]:
    """The scale and zero of each group. groups  # [..., group]; importance: broadcast to it; results  # [...]"""
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    best = np.full(low.shape, -1, np.float32)
    scale, zero = np.zeros_like(low), np.zeros(low.shape, np.uint8)
    for shrink in SHRINKS if grid.search else SHRINKS[:1]:
        tried, middle = _scale(low * np.float32(shrink), high * np.float32(shrink), grid)
        codes = encode(groups, tried[..., None], middle[..., None], grid).astype(np.float32)
        codes -= middle[..., None]
        weighted = codes if importance is None else codes * importance
        both, square = (np.einsum("...i,...i->...", weighted, other) for other in (groups, codes))
        least = np.divide(both, square, out=np.zeros_like(both), where=square > 0)
        # Of the squared error only this part depends on the codes: the more of it, the less is lost.
        gained = both * least
        better = gained > best
        best = np.where(better, gained, best)
        scale = np.where(better, least if grid.search else tried, scale)
        zero = np.where(better, middle, zero)
    return _rounded(scale, grid), zero


def encode(values: Floats, scale: Floats, zero: Codes, grid: Grid) -> Codes:
    """The nearest codes; all arrays broadcast. A scale of 0 gives zeros."""
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    with np.errstate(over="ignore", invalid="ignore"):  # the scale may be the smallest there is
        codes = values * inverse
    np.rint(codes, out=codes)
    codes += zero
    np.clip(codes, 0, grid.top, out=codes)
    return np.asarray(codes, np.uint8)


def decode(codes: Codes, scale: Floats, zero: Codes) -> Floats:
    """The numbers of codes; all arrays broadcast."""
    values = codes.astype(np.float32)
    values -= zero
    values *= scale
    return values


def _scale(low: Floats, high: Floats, grid: Grid) -> tuple[Floats, Codes]:
    """The scale and zero whose codes reach from `low` to `high`.

    A symmetric grid has one code more below zero: it gets the larger extreme, whose sign the scale takes.
    """
    if grid.symmetric:
        extreme = np.where(-low > high, low, high)
        return _rounded(extreme / np.float32(-grid.middle), grid), np.full(low.shape, grid.middle, np.uint8)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _rounded((high - low) / np.float32(grid.top), grid)
    zero = np.divide(-low, scale, out=np.zeros_like(low), where=scale != 0)
    return scale, np.clip(np.rint(zero), 0, grid.top).astype(np.uint8)


def _rounded(scale: Floats, grid: Grid) -> Floats:
    """The nearest scale that a file and a kernel both hold. Raises ValueError beyond float16."""
    scale = from_bfloat16(to_bfloat16(scale)) if grid.coarse else scale
    with np.errstate(over="ignore"):
        halves = scale.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("holds NaN or infinity, or numbers too large for float16 scales")
    return halves.astype(np.float32)
