"""A model as plain data: parts, no arithmetic, no checkpoint format. Lowered once by lower.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: angle of pair i at position p is p * theta^(-2i/head_dim), slowed down by `scaling`.

    scaling "none", "linear" (positions divided by factor) or "llama3" (Llama 3.1: long wavelengths divided by factor,
    smooth between the two marks, which are in units of original_len over wavelength). `divisors`, one for each pair,
    divide the angles further; empty: none.
    """

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_len: int = 8192
    divisors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Attn:
    """Grouped causal self-attention. scale 0 means head_dim ** -0.5."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    qkv_bias: bool = False
    out_bias: bool = False
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Mlp:
    """Gated feed-forward: down(silu(gate) * up)."""

    inner: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm."""

    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Layer:
    """norm, attention, norm, feed-forward; both added to the residual stream."""

    attn: Attn
    mlp: Mlp
    norm: Norm


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `tied`: the head is the embedding's table. `max_len`: positions the model was made for."""

    vocab: int
    width: int
    layers: tuple[Layer, ...]
    norm: Norm
    tied: bool
    max_len: int
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
