"""Small random programs that each have one feature of the ops which a plain decoder lacks, and some that have many.

`features()` is the list; names read "feature/details". A program of bench/cases.py is made and its ops are changed.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from op_cases import LONG, SHORT, Case, Texts

from octavo.bench.cases import Shape, make_program
from octavo.kernels.weight import Layout, Weight, to_bfloat16
from octavo.program.ops import (
    ACTIVATIONS,
    Attend,
    Embed,
    FfnIn,
    Head,
    HeadNorm,
    Norm,
    Norming,
    Op,
    Program,
    Proj,
    Qkv,
    Renorm,
    Rope,
)

Change = Callable[[np.random.Generator, Program], Program]


def each(program: Program, kind: type, change: Callable[[Any], dict[str, Any]]) -> Program:
    """A program whose ops of one kind have other values in some fields."""
    ops = tuple(dataclasses.replace(op, **change(op)) if isinstance(op, kind) else op for op in program.ops)
    return dataclasses.replace(program, ops=ops)


def vector(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 0.3, shape).astype(np.float32)


def norming(rng: np.random.Generator, kind: str, *shape: int, bias: bool = True) -> Norming:
    return Norming(kind, 1 + vector(rng, *shape), vector(rng, *shape) if bias else None, eps=1e-3)


def norms(kind: str, *, plain: bool = False) -> Change:
    """All norms of one kind; `plain` ones have no weight."""

    def change(rng: np.random.Generator, program: Program) -> Program:
        made = Norming(kind) if plain else norming(rng, kind, program.width)
        return each(program, Norm | Head, lambda op: {"norm": made})

    return change


def head_norms(kind: str, *, whole: bool = False, own: bool = False) -> Change:
    """Norms of queries and keys: over all heads (`whole`), or with weights of each head's `own`."""

    def change(rng: np.random.Generator, program: Program) -> Program:
        places = program.kv.head_dim

        def made(heads: int) -> HeadNorm:
            shape = (heads * places,) if whole else (heads, places) if own else (places,)
            return HeadNorm(norming(rng, kind, *shape, bias=kind == "layer"), whole)

        return each(program, Qkv, lambda op: {"q_norm": made(program.heads), "k_norm": made(program.kv.kv_heads)})

    return change


def fields(kind: type, **values: Any) -> Change:
    """Fixed values in the fields of one kind of op."""
    return lambda rng, program: each(program, kind, lambda op: values)


def slopes(rng: np.random.Generator, program: Program) -> Program:
    return each(program, Attend, lambda op: {"slopes": rng.uniform(0.01, 0.3, program.heads).astype(np.float32)})


def sinks(rng: np.random.Generator, program: Program) -> Program:
    return each(program, Attend, lambda op: {"sinks": rng.normal(1, 3, program.heads).astype(np.float32)})


def post(kind: str) -> Change:
    return lambda rng, program: each(program, Proj, lambda op: {"post": norming(rng, kind, program.width)})


def ungated(rng: np.random.Generator, program: Program) -> Program:
    return each(program, FfnIn, lambda op: {"gate": None, "gate_bias": None})


def positions(rng: np.random.Generator, program: Program) -> Program:
    table = rng.normal(0, 1, (program.max_len + 2, program.width)).astype(np.float32)
    return each(program, Embed, lambda op: {"positions": table})


def renorm(rng: np.random.Generator, program: Program) -> Program:
    """The stream is normed behind the embedding, and behind each projection, as encoders do."""
    ops: list[Op] = []
    for op in program.ops:
        ops.append(op)
        if isinstance(op, Embed | Proj):
            ops.append(Renorm(norming(rng, "layer", program.width)))
    return dataclasses.replace(program, ops=tuple(ops))


def partial_rope(rng: np.random.Generator, program: Program) -> Program:
    """Some pairs turn, some do not."""

    def change(op: Qkv) -> dict[str, Any]:
        assert op.rope is not None
        cos, sin = op.rope.cos.copy(), op.rope.sin.copy()
        cos[:, 5:], sin[:, 5:] = 1, 0
        return {"rope": Rope(cos, sin)}

    return each(program, Qkv, change)


def parallel(rng: np.random.Generator, program: Program) -> Program:
    """Attention and feed-forward read one norm of x, and both are added to it."""
    embed, *layer, head = program.ops
    ops: list[Op] = [embed]
    for start in range(0, len(layer), 7):
        norm, qkv, attend, o, _, ffn, down = layer[start : start + 7]
        ops += [norm, qkv, ffn, attend, o, down]
    return dataclasses.replace(program, ops=(*ops, head))


def crossed(rng: np.random.Generator, program: Program) -> Program:
    """The other h in every place."""
    kinds = Norm | Qkv | Attend | Proj | FfnIn
    turn = {"source", "out"}
    return each(program, kinds, lambda op: {name: 1 - getattr(op, name) for name in turn if hasattr(op, name)})


def head_bias(rng: np.random.Generator, program: Program) -> Program:
    return each(program, Head, lambda op: {"bias": vector(rng, program.vocab)})


def placed(dim: int) -> Change:
    """Heads of `dim` dims in more places: zeros where no dim is, and what turns stands in both halves."""

    def change(rng: np.random.Generator, program: Program) -> Program:
        places = program.kv.head_dim
        pairs = np.arange(places // 2) < dim // 2
        turning, ordered = np.concatenate([pairs, pairs]), np.arange(places) < dim

        def masked(weight: Weight, mask: np.ndarray) -> Weight:
            values = weight.dequantize() * np.tile(mask, weight.rows // places)[:, None]
            if weight.layout is Layout.F32:
                return Weight.float32(values.astype(np.float32))
            return Weight.bfloat16(to_bfloat16(values.astype(np.float32)))

        def vectors(values: np.ndarray | None, mask: np.ndarray) -> np.ndarray | None:
            return None if values is None else values * np.resize(mask, values.shape).astype(np.float32)

        def normed(norm: HeadNorm | None) -> HeadNorm | None:
            if norm is None:
                return None
            weight, bias = vectors(norm.norm.weight, turning), vectors(norm.norm.bias, turning)
            return HeadNorm(dataclasses.replace(norm.norm, weight=weight, bias=bias), norm.whole)

        def qkv(op: Qkv) -> dict[str, Any]:
            assert op.rope is not None
            cos, sin = np.where(pairs, op.rope.cos, 1), np.where(pairs, op.rope.sin, 0)
            masks = {"q": turning, "k": turning, "v": ordered}
            return {
                **{name: masked(getattr(op, name), mask) for name, mask in masks.items()},
                **{f"{name}_bias": vectors(getattr(op, f"{name}_bias"), mask) for name, mask in masks.items()},
                "q_norm": normed(op.q_norm),
                "k_norm": normed(op.k_norm),
                "rope": Rope(cos.astype(np.float32), sin.astype(np.float32)),
                "head_dim": dim,
            }

        def compact(op: Proj) -> dict[str, Any]:
            if op.source == 1:
                return {}
            values = op.weight.dequantize()[:, : program.heads * dim]
            if op.weight.layout is Layout.F32:
                return {"weight": Weight.float32(values)}
            return {"weight": Weight.bfloat16(to_bfloat16(values))}

        program = each(each(program, Qkv, qkv), Attend, lambda op: {"head_dim": dim})
        return each(program, Proj, compact)

    return change


def changed(
    name: str, shape: Shape, parts: str, *changes: Change, max_len: int = 544
) -> tuple[np.random.Generator, Program]:
    """A program with the changes made to it, and what the rest of its case is drawn from."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    program = make_program(rng, shape, parts, max_len)
    for change in changes:
        program = change(rng, program)
    return rng, program


def case(name: str, shape: Shape, parts: str, *changes: Change, lengths: tuple[int, ...] = SHORT) -> Case:
    """Sequences computed in random chunks."""
    rng, program = changed(name, shape, parts, *changes)
    texts = Texts.random(rng, lengths)
    return Case(name, program, texts, list(texts.steps(rng, 160 if max(lengths) > 100 else 48)))


def at_once(name: str, shape: Shape, *changes: Change, lengths: tuple[int, ...] = SHORT) -> Case:
    """Whole sequences in one step, as attention to what lies ahead needs it; all rows are wanted."""
    rng, program = changed(name, shape, "a", fields(Attend, causal=False), *changes)
    texts = Texts.random(rng, lengths)
    runs = [(slot, 0, length) for slot, length in enumerate(lengths)]
    batches = [texts.batch(rng, part, more=1) for part in (runs[::2], runs[1::2])]
    return Case(name, program, texts, batches)


def _attention() -> Iterator[Case]:
    for dtype in ("bfloat16", "float32"):
        shape = Shape(kv_dtype=dtype, layers=2)
        for window in (1, 7, 32, 33):
            yield case(f"window/{window}/{dtype}", shape, "a", fields(Attend, window=window))
        for window in (5, 100, 512, 530):
            yield case(f"window/{window}/long/{dtype}", shape, "a", fields(Attend, window=window), lengths=LONG)
        yield case(f"cap/{dtype}", shape, "a", fields(Attend, soft_cap=2.0))
        yield case(f"slopes/{dtype}", shape, "a", slopes, fields(Qkv, rope=None))
        yield case(f"sinks/{dtype}", shape, "a", sinks)
        many = (fields(Attend, window=70, soft_cap=3.0), slopes, sinks)
        for heads, kv_heads in ((6, 2), (7, 1)):
            uneven = Shape(heads=heads, kv_heads=kv_heads, kv_dtype=dtype)
            yield case(f"sight/{heads}-{kv_heads}/{dtype}", uneven, "a", *many)
            yield case(f"sight/{heads}-{kv_heads}/long/{dtype}", uneven, "a", *many, lengths=LONG)
        yield at_once(f"ahead/{dtype}", shape)
        yield at_once(f"ahead/window/{dtype}", shape, fields(Attend, window=9))
        yield at_once(f"ahead/long/{dtype}", shape, slopes, fields(Attend, window=65), lengths=(530, 33))
        for dim, places in ((24, 32), (80, 96), (40, 64)):
            odd = Shape(heads=3, kv_heads=1, head_dim=places, kv_dtype=dtype, bias=True)
            yield case(f"places/{dim}/{dtype}", odd, "a", placed(dim))
            for kind in ("rms", "layer"):
                for whole in (False, True):
                    normed = (head_norms(kind, whole=whole), placed(dim))
                    yield case(f"places/{dim}/{kind}-{'whole' if whole else 'apart'}/{dtype}", odd, "a", *normed)


def _projections() -> Iterator[Case]:
    for bias in (False, True):
        shape = Shape(bias=bias, width=96, layers=2)
        for kind in ("rms", "layer"):
            yield case(f"norm/{kind}/{bias}", shape, "af", norms(kind))
            yield case(f"norm/{kind}/plain/{bias}", shape, "af", norms(kind, plain=True))
            yield case(f"post/{kind}/{bias}", shape, "af", post(kind), fields(Proj, scale=0.7))
            yield case(f"heads/{kind}/{bias}", shape, "a", head_norms(kind))
            yield case(f"heads/{kind}/own/{bias}", shape, "a", head_norms(kind, own=True))
            yield case(f"heads/{kind}/whole/{bias}", shape, "a", head_norms(kind, whole=True))
        yield case(f"norm/none/{bias}", shape, "f", norms("none"))
        yield case(f"renorm/{bias}", shape, "af", renorm)
        yield case(f"scale/{bias}", shape, "af", fields(Proj, scale=0.22))
        yield case(f"clip/{bias}", shape, "a", fields(Qkv, clip=0.4))
        yield case(f"parallel/{bias}", shape, "af", parallel)
        yield case(f"crossed/{bias}", shape, "af", crossed)
    yield case("positions", Shape(width=160), "a", positions, fields(Qkv, rope=None))
    yield case("rope/none", Shape(), "a", fields(Qkv, rope=None))
    yield case("rope/partial", Shape(), "a", partial_rope)
    for activation in ACTIVATIONS:
        for layout in (Layout.F32, Layout.BF16, Layout.W8):
            shape = Shape(layout, bias=True, width=160, inner=96)
            yield case(f"ffn/{activation}/{layout.name}", shape, "f", fields(FfnIn, activation=activation))
            yield case(f"ungated/{activation}/{layout.name}", shape, "f", ungated, fields(FfnIn, activation=activation))
    for vocab in (211, 512, 700):
        shape = Shape(vocab=vocab)
        yield case(f"head/bias/{vocab}", shape, "h", head_bias, norms("layer"))
        yield case(f"head/scale/{vocab}", shape, "h", fields(Head, scale=0.0625))
        yield case(f"head/cap/{vocab}", shape, "h", fields(Head, scale=1.5, soft_cap=2.0), head_bias)


EVERYTHING = (
    positions,
    head_norms("rms", whole=True),
    fields(Attend, window=70, soft_cap=8.0),
    slopes,
    sinks,
    post("rms"),
    fields(Proj, scale=0.8),
    fields(FfnIn, activation="gelu_tanh"),
    fields(Head, scale=1.2, soft_cap=4.0),
    head_bias,
)


def _whole() -> Iterator[Case]:
    for layout in Layout:
        shape = Shape(layout, layers=2, bias=True, kv_dtype="bfloat16", heads=6, kv_heads=2, width=96)
        yield case(f"everything/{layout.name}", shape, "eafh", *EVERYTHING, lengths=(1, 33, 140))
    shape = Shape(layers=2, bias=True, heads=6, kv_heads=2, width=96)
    yield case("everything/exact", shape, "eafh", *EVERYTHING, lengths=(1, 33, 140))


def features() -> list[Case]:
    """All cases, each with its own name."""
    return [*_attention(), *_projections(), *_whole()]
