"""Norm, rotation, silu, softmax and attention of every instruction set against float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from kernel_rows import exact_rows, head_logits, identity_head, program, step

from octavo.bench.cases import plain_rope
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import Weight, from_bfloat16, to_bfloat16
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, Attend, FfnIn, Norm, Norming, Op, Proj, Qkv

ISAS = native.isas()
FULL = Act(32)


def run(x: np.ndarray, ops: tuple[Op, ...], kv: KvLayout, heads: int, isa: str, **chunks) -> tuple[np.ndarray, Cpu]:
    """The normed residual stream after `ops`, of all rows, and the executor."""
    executor = Cpu(program(x, ops, identity_head(x.shape[1]), kv, heads), 2, max_tokens=len(x), isa=isa)
    batches, texts = step(len(x), **chunks)
    executor.allocate(texts.pages)
    logits = np.concatenate([executor.logits(batch) for batch in batches])
    executor.close()
    return logits, executor


def normed(x: np.ndarray) -> np.ndarray:
    """RMS norm without epsilon, float64."""
    return x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 15, 16, 51, 576])
def test_norm(isa: str, width: int) -> None:
    rng = np.random.default_rng(width)
    x = (rng.normal(0, 1, (9, width)) * 10.0 ** rng.uniform(-12, 12, (9, 1))).astype(np.float32)
    x[4] = 1e-15
    identity = identity_head(width).weight
    weight = rng.uniform(-2, 2, width).astype(np.float32)
    np.testing.assert_allclose(head_logits(x, weight, identity, isa), normed(x) * weight, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_silu_and_with_it_exp2(isa: str) -> None:
    """The gate's bias is the argument; the weights are zero. Far below zero it is exp that decides every digit."""
    z = np.concatenate([np.linspace(-80, 80, 441), np.linspace(-1, 1, 71)]).astype(np.float32)
    width = len(z)
    zero, ones = Weight.float32(np.zeros((width, width), np.float32)), np.ones(width, np.float32)
    ops = (
        Norm(Norming("rms", ones, eps=1.0), FULL),
        FfnIn(zero, zero, z, ones, "silu", FULL, FULL),
        Proj(Weight.float32(np.eye(width, dtype=np.float32)), None, FULL, source=1),
    )
    got, _ = run(np.zeros((3, width), np.float32), ops, KvLayout(1, 1, 32), 1, isa)
    exact = z.astype(np.float64)
    want = normed((exact / (1 + np.exp(-exact)))[None])[0]
    error = np.abs(got - want) / np.maximum(np.abs(want), 1e-300)
    assert (error <= 6e-7 + 1e-7 * np.abs(z)).all()  # the argument itself is rounded: its error grows with its size
    assert (got == got[0]).all()


def attention64(
    x: np.ndarray, weights: list[np.ndarray], heads: int, kv_heads: int, dim: int, scale: float, narrow: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotated keys, values and the attention's result in float64, rounded to bfloat16 where the cache is."""

    def stored(values: np.ndarray) -> np.ndarray:
        return from_bfloat16(to_bfloat16(values.astype(np.float32))).astype(np.float64) if narrow else values

    h, count = normed(x), len(x)
    tables = plain_rope(dim, count)
    cos, sin = tables.cos[:, None].astype(np.float64), tables.sin[:, None].astype(np.float64)

    def turned(rows: np.ndarray) -> np.ndarray:
        a, b = np.split(rows, 2, axis=2)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)

    q, k, v = (h @ w.T.astype(np.float64) for w in weights)
    q, k = turned(q.reshape(count, heads, dim)), turned(k.reshape(count, kv_heads, dim))
    k, v = stored(k), stored(v.reshape(count, kv_heads, dim))
    out = np.empty_like(q)
    for head in range(heads):
        source = head * kv_heads // heads
        scores = stored(q[:, head] * scale) @ k[:, source].T
        scores[np.triu_indices(count, 1)] = -np.inf
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = share @ v[:, source] / share.sum(axis=1, keepdims=True)
    return k, v, out.reshape(count, -1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "count"), [(4, 4, 32, 33), (7, 1, 96, 65), (6, 2, 64, 545)])
def test_attention_rotation_and_pages(isa: str, dtype: str, heads: int, kv_heads: int, dim: int, count: int) -> None:
    """Whole, and again in chunks whose edges are those of pages and of the 512 keys summed at once: the same bits."""
    rng = np.random.default_rng(count)
    width = heads * dim
    x = exact_rows(rng, count, width)
    sizes = (width, kv_heads * dim, kv_heads * dim)
    q, k, v = ((rng.normal(0, 1, (rows, width)) * width**-0.5).astype(np.float32) for rows in sizes)
    scale = 1.5 * dim**-0.5
    weights = [Weight.float32(matrix) for matrix in (q, k, v)]
    ops = (
        Norm(Norming("rms", np.ones(width, np.float32), eps=0.0), FULL),
        Qkv(*weights, None, None, None, rope=plain_rope(dim, 1024), layer=0, act=FULL),
        Attend(0, scale, FULL),
        Proj(Weight.float32(np.float32(2) ** 20 * np.eye(width, dtype=np.float32)), None, FULL),  # drowns x
    )
    got, executor = run(x, ops, KvLayout(1, kv_heads, dim, dtype), heads, isa)
    keys, values, out = attention64(x, [q, k, v], heads, kv_heads, dim, scale, dtype == "bfloat16")
    want = normed(x + 2.0**20 * out)
    distance = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    assert distance.max() < (5e-3 if dtype == "bfloat16" else 3e-6)
    edges = [0, 1, *(edge for edge in (31, 32, 511, 512) if edge < count - 1), count - 1, count]
    parts = tuple((first, last - first) for first, last in pairwise(edges))
    again, _ = run(x, ops, KvLayout(1, kv_heads, dim, dtype), heads, isa, runs=parts)
    assert np.array_equal(got, again)
    if dtype == "float32":
        assert executor.store is not None
        table = step(count)[1].tables[0]
        held = executor.store.data.view(np.float32).reshape(-1, kv_heads, 2, 32 * dim)[table]
        rows = held[:, :, 0].reshape(-1, kv_heads, dim, 32).transpose(0, 3, 1, 2).reshape(-1, kv_heads, dim)[:count]
        assert np.abs(rows - keys).max() <= 1e-6 * np.abs(keys).max()
        rows = held[:, :, 1].reshape(-1, kv_heads, dim // 32, 32, 32).transpose(0, 3, 1, 2, 4)
        assert np.abs(rows.reshape(-1, kv_heads, dim)[:count] - values).max() <= 1e-6 * np.abs(values).max()
