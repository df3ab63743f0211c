"""The equations of ops.py as plain numpy functions, slow and obvious: the definition of correct for every kernel.

Everything is float32, products included. What is rounded or quantized is said in ops.py and done here exactly so:
activations of int8 and int16 are codes times scales, multiplied as float32. Knows no program, no page and no batch.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from octavo.kernels.weight import WORD, from_bfloat16, to_bfloat16
from octavo.program.ops import Act, Attend, Conv, Floats, HeadNorm, Norming, Rope, Route

Ints = npt.NDArray[np.int32]


def rounded(values: Floats, dtype: str) -> Floats:
    """Values as the cache's dtype holds them, in float32."""
    return from_bfloat16(to_bfloat16(values)) if dtype == "bfloat16" else values


def form(values: Floats, act: Act) -> Floats:
    """Values as a projection reads them. values, result  # [rows, inputs]"""
    if act.order:
        values = values[:, np.frombuffer(act.order, np.int32)]
    if act.bits == 32:
        return values
    if act.bits == 16:
        return rounded(values, "bfloat16")
    groups = values.reshape(len(values), values.shape[1] // act.group, act.group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    most = np.float32(127 if act.bits == 8 else WORD)
    inverse = np.divide(most, largest, out=np.zeros_like(largest), where=largest != 0)
    codes = np.clip(np.rint(groups * inverse), -most, most)
    return np.asarray((codes * (largest / most)).reshape(values.shape), np.float32)


def linear(h: Floats, matrix: Floats, bias: Floats | None) -> Floats:
    """W h + b. h  # [tokens, inputs]; matrix  # [outputs, inputs]; result  # [tokens, outputs]"""
    product: Floats = h @ matrix.T
    return product if bias is None else product + bias


def normed(z: Floats, norm: Norming, count: int = 0) -> Floats:
    """A norm over the last axis. z, result  # [..., size]; count: how many places are true, 0: all

    Places that are not true hold zeros and have zeros as weight and bias.
    """
    if norm.kind == "none":
        return z
    size, padding = count or z.shape[-1], z.shape[-1] - (count or z.shape[-1])
    mean = np.float32(0)
    if norm.kind == "layer":
        mean = z.sum(axis=-1, keepdims=True, dtype=np.float32) / np.float32(size)
    centred = z - mean
    square = (centred * centred).sum(axis=-1, keepdims=True, dtype=np.float32) - np.float32(padding) * mean * mean
    out = centred / np.sqrt(square / np.float32(size) + np.float32(norm.eps))
    out = out if norm.weight is None else out * norm.weight
    return np.asarray(out if norm.bias is None else out + norm.bias, np.float32)


def norm_heads(heads: Floats, norm: HeadNorm | None, head_dim: int) -> Floats:
    """Each head, or all as one vector, normed over true dims. heads, result  # [tokens, heads, places]"""
    if norm is None:
        return heads
    if norm.whole:
        flat = heads.reshape(len(heads), -1)
        return normed(flat, norm.norm, heads.shape[1] * head_dim).reshape(heads.shape)
    return normed(heads, norm.norm, head_dim)


def rotate(heads: Floats, rope: Rope | None, positions: Ints) -> Floats:
    """Turn the two halves of each head against each other. heads  # [tokens, heads, places]"""
    if rope is None:
        return heads
    cos, sin = rope.cos[positions][:, None], rope.sin[positions][:, None]
    first, second = np.split(heads, 2, axis=2)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


def silu(z: Floats) -> Floats:
    """z / (1 + exp(-z))."""
    return np.asarray(z / (1 + np.exp(-z)), np.float32)


def erf(z: Floats) -> Floats:
    """The error function of each element."""
    return np.asarray(np.vectorize(math.erf, otypes=[np.float32])(z), np.float32)


def activated(z: Floats, activation: str) -> Floats:
    """An activation function of ops.FfnIn."""
    match activation:
        case "silu":
            return silu(z)
        case "gelu":
            return np.asarray(z * (1 + erf(z * np.float32(0.5**0.5))) / 2, np.float32)
        case "gelu_tanh":
            inner = np.float32((2 / np.pi) ** 0.5) * (z + np.float32(0.044715) * z * z * z)
            return np.asarray(z * (1 + np.tanh(inner)) / 2, np.float32)
        case "relu":
            return np.maximum(z, 0)
        case "relu2":
            return np.square(np.maximum(z, 0))
    raise ValueError(f"activation {activation!r}")


def swiglu_oai(z: Floats, u: Floats, limit: float) -> Floats:
    """The activation of ops.MoeIn that clamps both halves."""
    z, u = np.minimum(z, np.float32(limit)), np.clip(u, np.float32(-limit), np.float32(limit))
    return np.asarray(z / (1 + np.exp(np.float32(-1.702) * z)) * (u + 1), np.float32)


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z))."""
    return np.asarray(1 / (1 + np.exp(-z)), np.float32)


def best(values: Floats, count: int) -> Ints:
    """Places of the largest along the last axis, the lower first where equal, NaN last. [..., count]"""
    return np.argsort(-values, axis=-1, kind="stable")[..., :count].astype(np.int32)


def chosen(z: Floats, op: Route) -> tuple[Ints, Floats]:
    """Experts of each token, the best first, and their shares. z  # [tokens, experts] -> [tokens, top] both"""
    if op.scoring == "sigmoid":
        scores = sigmoid(z)
    else:
        scores = np.exp(z - z.max(axis=1, keepdims=True))
        scores = scores / scores.sum(axis=1, keepdims=True)
    ranks = scores if op.scoring == "sigmoid" else z
    if op.correction is not None:
        ranks = scores + op.correction
    if op.groups > 1:
        groups = ranks.reshape(len(z), op.groups, -1)
        worth = np.take_along_axis(groups, best(groups, op.group_top), axis=2).sum(axis=2)
        kept = np.zeros_like(worth, np.bool_)
        np.put_along_axis(kept, best(worth, op.top_groups), True, axis=1)
        ranks = np.where(kept[:, :, None], groups, -np.inf).reshape(z.shape)
    experts = best(ranks, op.top)
    shares = np.take_along_axis(scores, experts, axis=1)
    divisor = shares.sum(axis=1, keepdims=True) + np.float32(1e-20) if op.renormalise else np.float32(1)
    return experts, np.asarray(np.float32(op.scale) * shares / divisor, np.float32)


def convolved(u: Floats, op: Conv) -> Floats:
    """The sum over taps of ops.Conv. u  # [tokens + taps - 1, width], the ones before the tokens first"""
    tokens = len(u) - len(op.taps) + 1
    total = np.zeros((tokens, u.shape[1]), np.float32)
    for number, tap in enumerate(op.taps):
        total += tap * u[number : number + tokens]
    return total if op.bias is None else total + op.bias


def capped(scores: Floats, soft_cap: float) -> Floats:
    """soft_cap * tanh(scores / soft_cap); 0: the scores."""
    if not soft_cap:
        return scores
    return np.asarray(np.float32(soft_cap) * np.tanh(scores / np.float32(soft_cap)), np.float32)


def visible(own: Ints, length: int, op: Attend) -> npt.NDArray[np.bool_]:
    """Which positions each token sees. own  # [tokens]; result  # [tokens, length]"""
    behind = own[:, None] - np.arange(length)  # how far a position lies behind the token's own
    seen: npt.NDArray[np.bool_] = behind >= (0 if op.causal else -length)
    near: npt.NDArray[np.bool_] = np.abs(behind) < op.window
    return seen & near if op.window else seen


def attention(q: Floats, keys: Floats, values: Floats, positions: Ints, op: Attend, dtype: str) -> Floats:
    """Softmax attention of one run.

    q  # [tokens, heads, places]; keys, values  # [positions so far, kv_heads, places]; result as q
    """
    heads, kv_heads = q.shape[1], keys.shape[1]
    seen = visible(positions, len(keys), op)
    behind = (positions[:, None] - np.arange(len(keys))).astype(np.float32)
    scaled = rounded(q * np.float32(op.scale), dtype)
    out = np.empty_like(q)
    for head in range(heads):
        source = head * kv_heads // heads
        scores = capped(scaled[:, head] @ keys[:, source].T, op.soft_cap)
        if op.slopes is not None:
            scores = scores - op.slopes[head] * behind
        scores = np.where(seen, scores, -np.inf).astype(np.float32)
        largest = scores.max(axis=1, keepdims=True)
        if op.sinks is not None:
            largest = np.maximum(largest, op.sinks[head])
        weights = np.exp(scores - largest)
        total = weights.sum(axis=1, keepdims=True)
        if op.sinks is not None:
            total = total + np.exp(op.sinks[head] - largest)
        used = np.asarray(seen.any(axis=0))[:, None]  # what no token sees may be no numbers
        out[:, head] = rounded(weights, dtype) @ np.where(used, values[:, source], 0) / total
    return out
