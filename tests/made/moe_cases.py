"""Small random mixtures of experts: every way to choose them, every layout, experts with none or all of the rows.

`mixtures()` is the list; names read "moe/details".
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from op_cases import SHORT, Case, Texts

from octavo.bench.cases import QUANTIZED, Shape, act, attention, bias, plain_rope, random_weight, vector
from octavo.core.layout import KvLayout
from octavo.kernels.weight import Layout
from octavo.program.ops import (
    ACTIVATIONS,
    Act,
    Embed,
    Expert,
    FfnIn,
    Floats,
    Head,
    MoeIn,
    MoeOut,
    Norm,
    Norming,
    Op,
    Program,
    Proj,
    Route,
)

PLAIN = Shape()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What varies between the mixtures. routing: fields of Route. push: added to the logits of the first experts."""

    shape: Shape = PLAIN
    experts: int = 8
    top: int = 3
    routing: tuple[tuple[str, Any], ...] = ()
    activation: str = "silu"
    gated: bool = True
    shared: bool = False
    post: bool = False
    scale: float = 1.0
    push: tuple[float, ...] = ()
    attends: bool = False
    up: Layout | None = None  # another layout than the rest's


def mixture(rng: np.random.Generator, m: Mixture) -> list[Op]:
    """Norm and Route in float32, Norm, a shared expert where there is one, MoeIn, MoeOut."""
    shape, plain = m.shape, Shape(width=m.shape.width)
    form, norm = act(shape), Norming("rms", vector(rng, shape.width), eps=1e-6)

    def matrix(rows: int, cols: int) -> Any:
        return random_weight(rng, shape, rows, cols)

    def expert() -> Expert:
        gate, gate_bias = (matrix(shape.inner, shape.width), bias(rng, shape, shape.inner)) if m.gated else (None, None)
        up = random_weight(rng, dataclasses.replace(shape, layout=m.up or shape.layout), shape.inner, shape.width)
        return Expert(gate, up, gate_bias, bias(rng, shape, shape.inner))

    router_bias: Floats | None = None
    if m.push:
        router_bias = np.zeros(m.experts, np.float32)
        router_bias[: len(m.push)] = m.push
    gate = random_weight(rng, plain, 1, shape.width) if m.shared else None
    router = random_weight(rng, plain, m.experts, shape.width)
    ops: list[Op] = [
        Norm(norm, Act(32), out=1),
        Route(router, router_bias, m.top, gate=gate, source=1, **dict(m.routing)),
        Norm(norm, form),
    ]
    if m.shared:
        up, down = matrix(shape.inner, shape.width), matrix(shape.width, shape.inner)
        ops.append(FfnIn(matrix(shape.inner, shape.width), up, None, None, "silu", form, form))
        ops.append(Proj(down, None, form, 1, m.scale, Norming("rms") if m.post else None, gated=True))
    experts = tuple(expert() for _ in range(m.experts))
    ops.append(MoeIn(experts, m.top, m.activation, form, form, limit=0.5 if m.activation == "swiglu_oai" else 0.0))
    downs = tuple(matrix(shape.width, shape.inner) for _ in range(m.experts))
    biases = tuple(bias(rng, shape, shape.width) for _ in range(m.experts))
    post = Norming("layer", vector(rng, shape.width)) if m.post else None
    return [*ops, MoeOut(downs, biases, m.top, form, scale=m.scale, post=post)]


def program(rng: np.random.Generator, m: Mixture, max_len: int = 544) -> Program:
    """Embed, layers of mixtures (after attention, where the mixture attends), Head; all but the layers is float32."""
    shape, plain = m.shape, Shape(width=m.shape.width)
    table, head = (random_weight(rng, plain, shape.vocab, shape.width) for _ in range(2))
    ops: list[Op] = [Embed(table, 3.5)]
    for layer in range(shape.layers):
        ops += attention(rng, shape, layer, plain_rope(shape.head_dim, max_len)) if m.attends else []
        ops += mixture(rng, m)
    ops.append(Head(Norming("rms", vector(rng, shape.width)), head, None, Act(32)))
    kv = KvLayout(shape.layers, shape.kv_heads, shape.head_dim, shape.kv_dtype)
    return Program(tuple(ops), shape.width, shape.heads, kv, shape.vocab, max_len)


def case(name: str, m: Mixture, lengths: tuple[int, ...] = SHORT, budget: int = 48) -> Case:
    """Sequences computed in random chunks."""
    name = f"moe/{name}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    texts = Texts.random(rng, lengths)
    return Case(name, program(rng, m), texts, list(texts.steps(rng, budget)))


def correction(experts: int) -> Floats:
    """Enough to change which experts are chosen."""
    return np.linspace(-0.3, 0.3, experts).astype(np.float32)[np.random.default_rng(2).permutation(experts)]


ROUTINGS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "renormalised": {"renormalise": True, "scale": 2.5},
    "sigmoid": {"scoring": "sigmoid"},
    "sigmoid-renormalised": {"scoring": "sigmoid", "renormalise": True, "scale": 0.5},
    "corrected": {"scoring": "sigmoid", "renormalise": True, "correction": correction(12)},
    "softmax-corrected": {"correction": correction(12)},
    "groups": {"groups": 4, "top_groups": 2, "group_top": 1, "scale": 3.0},
    "groups-corrected": {"scoring": "sigmoid", "groups": 3, "top_groups": 2, "group_top": 2, "renormalise": True}
    | {"correction": correction(12)},
}


def mixtures() -> list[Case]:
    """All cases, each with its own name."""
    return list(_mixtures())


def _mixtures() -> Iterator[Case]:
    for name, routing in ROUTINGS.items():
        yield case(f"route/{name}", Mixture(experts=12, routing=tuple(routing.items())))
    for layout in Layout:
        shape = Shape(layout, bias=True)
        for shared in (False, True):
            yield case(f"{layout.name}/shared-{shared}", Mixture(shape, shared=shared))
        many = Mixture(Shape(layout, layers=2, bias=True, kv_dtype="bfloat16"), 70, 5, attends=True, shared=True)
        yield case(f"{layout.name}/many", many, (1, 33, 140), 100)
    for layout in (*QUANTIZED, Layout.W16):
        yield case(f"groups/{layout.name}", Mixture(Shape(layout, width=128, inner=256, group=128)))
    yield case("two-layouts", Mixture(Shape(Layout.W8), up=Layout.W4M))
    for layout in (Layout.F32, Layout.BF16):  # sizes that no tile divides
        yield case(f"odd/{layout.name}", Mixture(Shape(layout, width=50, inner=75, bias=True), 5, 2, shared=True))
    for activation in (*ACTIVATIONS, "swiglu_oai"):
        for layout in (Layout.F32, Layout.W8):
            yield case(f"{activation}/{layout.name}", Mixture(Shape(layout, bias=True), activation=activation))
    yield case("ungated", Mixture(Shape(bias=True), activation="relu2", gated=False))
    yield case("scale", Mixture(scale=0.3, shared=True))
    yield case("post", Mixture(scale=0.3, post=True, shared=True))
    yield case("all-on-one", Mixture(top=1, push=(1e4,)), (1, 200, 33), 190)
    yield case("all-on-two", Mixture(Shape(Layout.W8), 40, 2, push=(1e4, 0, 2e4)), (1, 200, 33), 190)
    yield case("one-and-any", Mixture(experts=33, top=2, push=(1e4,)), (1, 200, 33), 190)
    yield case("every", Mixture(experts=4, top=4))
    yield case("single", Mixture(experts=1, top=1))
