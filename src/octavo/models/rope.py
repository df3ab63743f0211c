"""Rotation tables from a declared `Rope`. Owns the formulas of its scalings; knows no model and no executor."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from octavo.core.errors import ModelError
from octavo.models.spec import Rope
from octavo.program.ops import Rope as RopeTables


def frequencies(rope: Rope, head_dim: int) -> npt.NDArray[np.float64]:
    """Angle that each pair of dimensions turns in one position. [head_dim / 2], radians

    Plain: Su et al. 2021 (RoFormer). Linear: positions divided by the factor (Chen et al. 2023). llama3: the scaling of
    Meta's Llama 3.1 release. Raises ModelError for another scaling, marks out of order, divisors of another length.
    """
    freqs = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.scaling == "linear":
        freqs = freqs / rope.factor
    elif rope.scaling == "llama3":
        freqs = _llama3(freqs, rope)
    elif rope.scaling != "none":
        raise ModelError(f"rope scaling {rope.scaling!r} is not supported; none, linear and llama3 are")
    if rope.divisors:
        if len(rope.divisors) != len(freqs):
            raise ModelError(f"rope: {len(rope.divisors)} divisors for {len(freqs)} pairs of a head of {head_dim}")
        freqs = freqs / np.array(rope.divisors)
    return np.asarray(freqs, np.float64)


def tables(rope: Rope, head_dim: int, positions: int) -> RopeTables:
    """cos and sin, computed in float64 and rounded once to float32. [positions, head_dim / 2]"""
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies(rope, head_dim))
    return RopeTables(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def _llama3(freqs: npt.NDArray[np.float64], rope: Rope) -> npt.NDArray[np.float64]:
    """Turns in the original length decide: few, divide by the factor; many, keep; between, mix linearly."""
    if not rope.low_freq_factor < rope.high_freq_factor:
        raise ModelError(
            f"rope: low_freq_factor {rope.low_freq_factor} is not below {rope.high_freq_factor}, the high one"
        )
    turns = freqs * rope.original_len / (2 * math.pi)
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return np.asarray(kept * freqs + (1 - kept) * freqs / rope.factor, np.float64)
