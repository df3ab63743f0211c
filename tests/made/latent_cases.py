"""Small random programs of latent attention: every layout, with and without a narrow query, sizes up to the published.

`latents()` is the list; names read "latent/details".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from op_cases import LONG, SHORT, Case, Texts

from octavo.bench.cases import QUANTIZED, Shape, act, bias, plain_rope, random_weight, vector
from octavo.core.layout import KvLayout
from octavo.kernels.weight import Layout
from octavo.program.ops import (
    Act,
    Attend,
    Embed,
    Head,
    Latent,
    LatentQuery,
    Norm,
    Norming,
    Op,
    PerHead,
    Program,
    Proj,
)

PLAIN, THREE = Shape(), Shape(heads=3)


@dataclass(frozen=True)
class Attention:
    """What varies. shape: of its matrices, whose head_dim is not looked at; up: of U, whose inputs are `plain`."""

    shape: Shape = THREE
    rank: int = 64
    rest: int = 32
    plain: int = 32
    value: int = 64
    narrow: int = 0
    up: Shape = PLAIN
    window: int = 0


def attention(rng: np.random.Generator, a: Attention, layer: int, max_len: int) -> list[Op]:
    """Norm, Latent, LatentQuery, Attend, PerHead, Proj."""
    shape, form, heads = a.shape, act(a.shape), a.shape.heads
    rope = plain_rope(a.rest, max_len) if a.rest else None
    places, asked = a.rank + a.rest, a.narrow or shape.width
    narrow = random_weight(rng, shape, a.narrow, shape.width) if a.narrow else None
    latent = Latent(
        random_weight(rng, shape, places, shape.width),
        bias(rng, shape, places),
        Norming("rms", vector(rng, a.rank), eps=1e-6),
        rope,
        a.rank,
        layer,
        form,
        narrow=narrow,
        narrow_bias=bias(rng, shape, a.narrow) if a.narrow else None,
        narrow_norm=Norming("rms", vector(rng, a.narrow), eps=1e-6) if a.narrow else Norming("none"),
        act_out=form,
    )
    query = random_weight(rng, shape, heads * (a.plain + a.rest), asked)
    up = random_weight(rng, a.up, heads * a.rank, a.plain)
    values = random_weight(rng, shape, heads * a.value, a.rank)
    out = random_weight(rng, shape, shape.width, heads * a.value)
    return [
        Norm(Norming("rms", vector(rng, shape.width), eps=1e-5), form),
        latent,
        LatentQuery(query, up, rope, a.rank, form, act(a.up), source=1 if a.narrow else 0),
        Attend(layer, 2 * places**-0.5, form, window=a.window, head_dim=a.rank, apart=True),
        PerHead(values, form, form),
        Proj(out, bias(rng, shape, shape.width), form, source=1),
    ]


def program(rng: np.random.Generator, a: Attention, max_len: int = 544) -> Program:
    """Embed, layers of latent attention, Head; all but the layers is float32."""
    shape, plain = a.shape, Shape(width=a.shape.width)
    table, head = (random_weight(rng, plain, shape.vocab, shape.width) for _ in range(2))
    ops: list[Op] = [Embed(table, 3.5)]
    for layer in range(shape.layers):
        ops += attention(rng, a, layer, max_len)
    ops.append(Head(Norming("rms", vector(rng, shape.width)), head, None, Act(32)))
    kv = KvLayout(shape.layers, 1, a.rank + a.rest, shape.kv_dtype)
    return Program(tuple(ops), shape.width, shape.heads, kv, shape.vocab, max_len)


def case(name: str, a: Attention, lengths: tuple[int, ...] = SHORT) -> Case:
    """Sequences computed in random chunks."""
    name = f"latent/{name}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    texts = Texts.random(rng, lengths)
    return Case(name, program(rng, a), texts, list(texts.steps(rng, 160 if max(lengths) > 100 else 48)))


def latents() -> list[Case]:
    """All cases, each with its own name."""
    return list(_latents())


def _latents() -> Iterator[Case]:
    for layout in Layout:
        for dtype in ("float32", "bfloat16"):
            shape = Shape(layout, heads=3, bias=True, kv_dtype=dtype, layers=2)
            yield case(f"{layout.name}/{dtype}", Attention(shape))
            yield case(f"{layout.name}/narrow/{dtype}", Attention(shape, narrow=96, up=Shape(layout)))
    for layout in (*QUANTIZED, Layout.W16):  # groups that lie across heads
        shape = Shape(layout, width=128, heads=4, group=128)
        yield case(f"groups/{layout.name}", Attention(shape, rank=128, value=32, narrow=256, up=Shape(Layout.BF16)))
    for dtype in ("float32", "bfloat16"):
        shape = Shape(heads=5, kv_dtype=dtype)
        yield case(f"long/{dtype}", Attention(shape, narrow=72), LONG)
        yield case(f"window/{dtype}", Attention(shape, window=40), LONG)
        yield case(f"still/{dtype}", Attention(shape, rest=0))
        published = Attention(Shape(Layout.W8, heads=16, kv_dtype=dtype), 512, 64, 128, 128, up=Shape(Layout.BF16))
        yield case(f"published/{dtype}", published, (530, 3))
    yield case("odd", Attention(Shape(width=50, heads=7), narrow=41))
