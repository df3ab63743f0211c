"""Small random programs of short convolutions: every layout and cache dtype, one place or several, odd sizes.

`convolutions()` is the list; names read "conv/details".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from op_cases import LONG, SHORT, Case, Texts

from octavo.bench.cases import QUANTIZED, Shape, act, bias, random_weight, vector
from octavo.core.layout import KvLayout
from octavo.kernels.weight import Layout
from octavo.program.ops import Act, Conv, Embed, Head, Norm, Norming, Op, Program, Proj

PLAIN = Shape()


@dataclass(frozen=True)
class Short:
    """What varies. shape: of its matrices; its heads say how many numbers a place holds."""

    shape: Shape = PLAIN
    taps: int = 3


def convolution(rng: np.random.Generator, a: Short, layer: int) -> list[Op]:
    """Norm, Conv, Proj."""
    shape, form, width = a.shape, act(a.shape), a.shape.width
    b, c, z = (random_weight(rng, shape, width, width) for _ in range(3))
    return [
        Norm(Norming("rms", vector(rng, width), eps=1e-5), form),
        Conv(
            b,
            c,
            z,
            bias(rng, shape, width),
            bias(rng, shape, width),
            bias(rng, shape, width),
            taps=rng.normal(0, a.taps**-0.5, (a.taps, width)).astype(np.float32),
            bias=bias(rng, shape, width),
            layer=layer,
            act=form,
            act_out=form,
        ),
        Proj(random_weight(rng, shape, width, width), bias(rng, shape, width), form, source=1),
    ]


def program(rng: np.random.Generator, a: Short = Short(), max_len: int = 544) -> Program:
    """Embed, layers of convolutions, Head; all but the layers is float32."""
    shape, plain = a.shape, Shape(width=a.shape.width)
    seats = KvLayout(1, shape.kv_heads, shape.head_dim).seats(shape.width)
    kv = KvLayout(seats * shape.layers, shape.kv_heads, shape.head_dim, shape.kv_dtype)
    table, head = (random_weight(rng, plain, shape.vocab, shape.width) for _ in range(2))
    ops: list[Op] = [Embed(table, 3.5)]
    for layer in range(shape.layers):
        ops += convolution(rng, a, layer * seats)
    ops.append(Head(Norming("rms", vector(rng, shape.width)), head, None, Act(32)))
    return Program(tuple(ops), shape.width, shape.heads, kv, shape.vocab, max_len)


def case(name: str, a: Short, lengths: tuple[int, ...] = SHORT) -> Case:
    """Sequences computed in random chunks."""
    name = f"conv/{name}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    texts = Texts.random(rng, lengths)
    return Case(name, program(rng, a), texts, list(texts.steps(rng, 160 if max(lengths) > 100 else 48)))


def convolutions() -> list[Case]:
    """All cases, each with its own name."""
    return list(_convolutions())


def _convolutions() -> Iterator[Case]:
    for dtype in ("float32", "bfloat16"):
        for layout in Layout:
            for has_bias in (False, True):
                shape = Shape(layout, bias=has_bias, kv_dtype=dtype, layers=2)
                yield case(f"{layout.name}/bias-{has_bias}/{dtype}", Short(shape))
        for layout in (*QUANTIZED, Layout.W16):  # groups that are longer than a panel
            shape = Shape(layout, width=256, heads=2, kv_heads=1, group=128, kv_dtype=dtype)
            yield case(f"groups/{layout.name}/{dtype}", Short(shape))
        narrow = Shape(width=160, heads=2, kv_heads=1, head_dim=32, kv_dtype=dtype, layers=3)
        yield case(f"places/{dtype}", Short(narrow))  # three of 64 numbers each, the last one half empty
        for taps in (1, 2, 4, 40):  # 40: more than a page
            yield case(f"taps/{taps}/{dtype}", Short(Shape(kv_dtype=dtype, layers=2), taps))
        yield case(f"long/{dtype}", Short(Shape(kv_dtype=dtype, bias=True)), LONG)
        yield case(f"odd/{dtype}", Short(Shape(width=75, kv_heads=1, kv_dtype=dtype, bias=True), 4))
