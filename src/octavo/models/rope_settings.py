"""Rotary positions as a model's settings declare them, in the words of every version of transformers.

`rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before). Knows no formula; see models/rope.py.
"""

from __future__ import annotations

import math
from typing import Any

from octavo.models.settings import Settings
from octavo.models.spec import Rope

ROPE_KINDS = "default, linear, dynamic, llama3, yarn or longrope"


def rope(c: Settings, head_dim: int, *, dims: int = 0, partial: float = 1.0, theta: float = 10000.0) -> Rope:
    """The rotation that these settings declare for all layers. Raises ModelError.

    dims: how many dims turn, where the settings say so in words of their own; 0: `partial_rotary_factor`, which is
    `partial` where it is not given.
    """
    return rope_of(c, _scaling(c), head_dim, dims=dims, partial=partial, theta=theta)


def rope_of_kind(c: Settings, kind: str, head_dim: int, **options: Any) -> Rope:
    """As `rope`, of the layers of one of `layer_types`, which `rope_parameters` may speak of apart."""
    parameters = c.section("rope_parameters")
    if parameters.has(kind):
        return rope_of(c, parameters.section(kind), head_dim, **options)
    return rope(c, head_dim, **options)


def _scaling(c: Settings) -> Settings:
    """The object that speaks of rotation."""
    both = c.has("rope_parameters") and c.has("rope_scaling")
    if both and c.value("rope_parameters") != c.value("rope_scaling"):
        raise c.refused("rope_scaling", "none beside rope_parameters, or the same")
    name = "rope_parameters" if c.has("rope_parameters") else "rope_scaling"
    section = c.section(name)
    if any(isinstance(section.value(key), dict) for key in section.names()):
        raise c.refused(name, "an object of plain values, the same for all layers")
    return section


def rope_of(
    c: Settings, scaling: Settings, head_dim: int, *, dims: int = 0, partial: float = 1.0, theta: float = 10000.0
) -> Rope:
    """As `rope`, of an object that may stand for some of the layers only."""
    theta = scaling.number("rope_theta") if scaling.has("rope_theta") else c.number("rope_theta", theta)
    if not dims and c.has("rotary_dim"):
        dims = c.integer("rotary_dim", high=head_dim)
        if dims % 2:
            raise c.refused("rotary_dim", "an even number")
    if not dims:
        place = scaling if scaling.has("partial_rotary_factor") else c
        factor = place.number("partial_rotary_factor", partial)
        dims = int(head_dim * factor)
        if factor > 1 or dims % 2 or dims == 0:
            raise place.refused("partial_rotary_factor", f"a share of {head_dim} dims of a head that is an even number")
    dims = 0 if dims == head_dim else dims
    divisors = scaling.numbers("divisors")
    if divisors and len(divisors) != (dims or head_dim) // 2:
        count = (dims or head_dim) // 2
        raise c.refused("rope_scaling", f"{count} divisors of frequency, one for each pair of a head")
    field = "rope_type" if scaling.has("rope_type") else "type"
    match scaling.value(field, "default"):
        case "default" | "none":
            return Rope(theta, divisors=divisors, dims=dims)
        case "linear":
            return Rope(theta, "linear", scaling.number("factor"), divisors=divisors, dims=dims)
        case "dynamic":
            length = scaling.integer("original_max_position_embeddings", c.integer("max_position_embeddings", 2048))
            return Rope(theta, "dynamic", scaling.number("factor"), original_len=length, dims=dims)
        case "llama3":
            low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
            if low >= high:
                raise scaling.refused("low_freq_factor", f"less than high_freq_factor, which is {high}")
            original = scaling.integer("original_max_position_embeddings")
            return Rope(theta, "llama3", scaling.number("factor"), low, high, original, dims=dims)
        case "yarn":
            return _yarn(c, scaling, theta, dims)
        case "longrope" | "su":
            return _longrope(c, scaling, theta, dims or head_dim, head_dim)
        case _:
            raise scaling.refused(field, ROPE_KINDS)


def _yarn(c: Settings, scaling: Settings, theta: float, dims: int) -> Rope:
    """YaRN, as transformers completes what is left out."""
    longest = c.integer("max_position_embeddings", 2048)
    original = scaling.integer("original_max_position_embeddings", longest)
    factor = scaling.number("factor", longest / original)
    attention = scaling.number("attention_factor") if scaling.has("attention_factor") else 0.0
    if scaling.has("mscale") and scaling.has("mscale_all_dim") and not attention:
        attention = mscale(factor, scaling.number("mscale")) / mscale(factor, scaling.number("mscale_all_dim"))
    return Rope(
        theta,
        "yarn",
        factor,
        original_len=original,
        dims=dims,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        truncate=scaling.boolean("truncate", True),
        attention=attention,
    )


def mscale(factor: float, weight: float) -> float:
    """DeepSeek's form of YaRN's scaling of attention."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(c: Settings, scaling: Settings, theta: float, dims: int, head_dim: int) -> Rope:
    """Phi-3's two lists of divisors, one for each pair that turns."""
    short, long = scaling.numbers("short_factor"), scaling.numbers("long_factor")
    for name, values in (("short_factor", short), ("long_factor", long)):
        if len(values) != dims // 2:
            raise scaling.refused(name, f"{dims // 2} numbers, one for each pair that turns")
    longest = c.integer("max_position_embeddings", 2048)
    place = c if c.has("original_max_position_embeddings") else scaling
    original = place.integer("original_max_position_embeddings", low=2)
    return Rope(
        theta,
        "longrope",
        scaling.number("factor", max(1.0, longest / original)),
        original_len=original,
        dims=0 if dims == head_dim else dims,
        attention=scaling.number("attention_factor") if scaling.has("attention_factor") else 0.0,
        short=short,
        long=long,
    )


def reach(c: Settings, rope: Rope | None, default: int = 2048) -> int:
    """How many positions the model was made for, after stretching."""
    longest = c.integer("max_position_embeddings", default)
    if rope and rope.scaling in ("dynamic", "yarn"):
        return max(longest, int(rope.original_len * rope.factor))
    return longest
