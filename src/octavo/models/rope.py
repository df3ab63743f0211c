"""Rotation tables and ALiBi slopes. Owns the formulas of position schemes; knows no model and no executor.

Sources: plain, Su et al. 2021 (RoFormer); linear, Chen et al. 2023; llama3, Meta's Llama 3.1 release; yarn, Peng et al.
2023; longrope, Ding et al. 2024, as Phi-3 and vLLM apply it; ALiBi, Press et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from octavo.core.errors import ModelError
from octavo.models.spec import Rope, places
from octavo.program.ops import Floats
from octavo.program.ops import Rope as RopeTables

Doubles = npt.NDArray[np.float64]


def turning(rope: Rope, head_dim: int) -> int:
    """How many dims of a head turn."""
    return rope.dims or head_dim


def frequencies(rope: Rope, head_dim: int, max_len: int = 0) -> Doubles:
    """Angle that each pair of dims turns in one position. [turning / 2], radians

    max_len: positions that sequences may have. Raises ModelError for another scaling, marks out of order, lists of
    another length.
    """
    dims = turning(rope, head_dim)
    scale = SCALINGS.get(rope.scaling)
    if scale is None:
        raise ModelError(f"rope scaling {rope.scaling!r} is not supported; {', '.join(SCALINGS)} are")
    freqs = scale(rope.theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims), rope, max_len)
    if rope.divisors:
        freqs = freqs / _each(rope.divisors, freqs, "divisors")
    return np.asarray(freqs, np.float64)


def tables(rope: Rope, head_dim: int, positions: int) -> RopeTables:
    """cos and sin, computed in float64 and rounded once to float32. [positions, places / 2]; see `placed` in rows.py"""
    freqs = np.zeros(places(head_dim) // 2)
    turned = frequencies(rope, head_dim, positions)
    freqs[: len(turned)] = turned
    scale = np.ones(len(freqs))
    scale[: len(turned)] = attention_factor(rope)
    angles = np.outer(np.arange(positions, dtype=np.float64), freqs)
    return RopeTables((np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32))


def attention_factor(rope: Rope) -> float:
    """What cos and sin are multiplied with."""
    if rope.attention or rope.factor <= 1:
        return rope.attention or 1.0
    if rope.scaling == "yarn":
        return 0.1 * math.log(rope.factor) + 1.0
    if rope.scaling == "longrope":
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_len))
    return 1.0


def slopes(heads: int, largest: float) -> Floats:
    """ALiBi's slope of each head: 2^(-largest * i / n) for i = 1..n; beyond a power of two n, every other of 2n."""
    power = 2 ** (heads.bit_length() - 1)
    exponents = [largest * i / power for i in range(1, power + 1)]
    exponents += [largest * i / (2 * power) for i in range(1, 2 * power + 1, 2)]
    return np.array([2.0**-exponent for exponent in exponents[:heads]], np.float32)


def _none(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    return freqs


def _linear(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    return freqs / rope.factor


def _dynamic(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    """The theta that stretching to factor * original_len asks for, fixed for all lengths."""
    dims = 2 * len(freqs)
    theta = rope.theta * (rope.factor * rope.factor - (rope.factor - 1)) ** (dims / (dims - 2))
    return np.asarray(theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims), np.float64)


def _llama3(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    """Turns in the original length decide: few, divide by the factor; many, keep; between, mix linearly."""
    if not rope.low_freq_factor < rope.high_freq_factor:
        raise ModelError(
            f"rope: low_freq_factor {rope.low_freq_factor} is not below {rope.high_freq_factor}, the high one"
        )
    turns = freqs * rope.original_len / (2 * math.pi)
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return np.asarray(kept * freqs + (1 - kept) * freqs / rope.factor, np.float64)


def _yarn(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    """Pairs that turn beta_fast times or more in the original length are kept, beta_slow or fewer divided."""

    def pair(turns: float) -> float:
        full = math.log(rope.original_len / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        return 2 * len(freqs) * full

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * len(freqs) - 1)
    slowed = np.clip((np.arange(len(freqs)) - low) / max(high - low, 0.001), 0, 1)
    return np.asarray(slowed * freqs / rope.factor + (1 - slowed) * freqs, np.float64)


def _longrope(freqs: Doubles, rope: Rope, max_len: int) -> Doubles:
    long = max_len > rope.original_len
    return freqs / _each(rope.long if long else rope.short, freqs, "long factors" if long else "short factors")


def _each(values: tuple[float, ...], freqs: Doubles, what: str) -> Doubles:
    if len(values) != len(freqs):
        raise ModelError(f"rope: {len(values)} {what} for {len(freqs)} pairs that turn")
    return np.array(values)


SCALINGS: dict[str, Callable[[Doubles, Rope, int], Doubles]] = {
    "none": _none,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
