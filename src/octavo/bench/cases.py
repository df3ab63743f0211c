"""Random programs of any shape, and the forms they come in: what the parity test compares and what `bench` times.

The same seed gives the same bytes everywhere. A form that is timed is one of FORMS, a number of heads one of HEADS, and
tests/made/op_cases.py makes a case of each: no kernel is timed that is not compared with the reference. Knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.core.layout import KvLayout
from octavo.kernels.weight import BYTES, CODED, FLOATS, HALVES, QUANTIZED, WORD, Layout, Weight, read_as, to_bfloat16
from octavo.program.ops import Act, Attend, Embed, FfnIn, Head, Norm, Norming, Op, Program, Proj, Qkv, Rope

HEADS = ((9, 3, 64), (14, 2, 64), (32, 8, 64))  # (heads, kv_heads, head_dim) of SmolLM2, Qwen2.5-0.5B, Llama-3.2-1B
VOCAB = 211

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Form:
    """How a matrix is stored. group: inputs that share a scale; 0: all inputs of an output, or no scales at all."""

    layout: Layout
    group: int = 0

    @property
    def name(self) -> str:
        """Such as "BF16", "W4M/32", "W8/row"."""
        return self.layout.name + (f"/{self.group or 'row'}" if self.layout in CODED else "")


FORMS = (
    Form(Layout.F32),
    Form(Layout.BF16),
    Form(Layout.W8),
    *(Form(layout, group) for layout in (Layout.W8, Layout.W4, Layout.W4M) for group in (32, 64, 128)),
    *(Form(layout, 16) for layout in HALVES),
    Form(Layout.W8M, 32),
    Form(Layout.W4L, 32),
    Form(Layout.F8),
    Form(Layout.F8, 128),
    Form(Layout.F4, 64),
    Form(Layout.F4, 16),
    Form(Layout.W16, 32),
    Form(Layout.W16, 128),
)
TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)  # of IQ4_NL
NUMBERS = np.sort(np.random.default_rng(4).normal(0, 1, 16)).astype(np.float32)  # a table of F4


@dataclass(frozen=True)
class Shape:
    """What varies between the programs."""

    layout: Layout = Layout.F32
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    inner: int = 96
    group: int = 32  # inputs that share a scale, of a quantized weight
    bias: bool = False
    kv_dtype: str = "float32"
    act_bits: int = 0  # 0: the layout's own
    layers: int = 1
    vocab: int = VOCAB


def act(shape: Shape) -> Act:
    """The input form that belongs to a shape's layout."""
    return Act(shape.act_bits) if shape.act_bits else Act(*read_as(shape.layout, shape.group))


def random_weight(rng: np.random.Generator, shape: Shape, rows: int, cols: int) -> Weight:
    """A matrix whose product with unit inputs has about unit size."""
    size = cols**-0.5
    if shape.layout in FLOATS:
        scale = (rng.uniform(0.5, 1.5, (rows, cols // shape.group)) * size).astype(np.float32)
        if shape.layout is Layout.F4:
            return Weight.float4(rng.integers(0, 16, (rows, cols)).astype(np.uint8), scale, NUMBERS)
        codes = rng.integers(0, 112, (rows, cols)) + rng.choice([0, 128], (rows, cols))  # up to 60, most below 1
        return Weight.float8(codes.astype(np.uint8), scale / np.float32(10))
    if shape.layout is Layout.W16:
        scale = (rng.uniform(0.5, 1.5, (rows, cols // shape.group)) * size / (WORD / 2)).astype(np.float32)
        return Weight.int16(rng.integers(-WORD, WORD + 1, (rows, cols)).astype(np.int16), scale)
    if shape.layout not in QUANTIZED:
        values = rng.normal(0, size, (rows, cols)).astype(np.float32)
        return Weight.float32(values) if shape.layout is Layout.F32 else Weight.bfloat16(to_bfloat16(values))
    steps = 4.6 if shape.layout in (Layout.W4, Layout.W4M) else 73.0  # the standard deviation of the codes
    scale = (rng.uniform(0.5, 1.5, (rows, cols // shape.group)) * size / steps).astype(np.float16)
    if shape.layout in BYTES:
        signed = rng.integers(-127, 128, (rows, cols)).astype(np.int8)
        if shape.layout is Layout.W8:
            return Weight.int8(signed, scale)
        return Weight.int8_min(signed, scale, (scale * rng.uniform(-30, 30, scale.shape)).astype(np.float16))
    codes = rng.integers(0, 16, (rows, cols)).astype(np.uint8)
    if shape.layout is Layout.W4:
        return Weight.int4(codes, scale)
    if shape.layout is Layout.W4L:
        return Weight.int4_table(codes, scale, TABLE)
    return Weight.int4_min(codes, scale, (scale * rng.uniform(-9, -6, scale.shape)).astype(np.float16))


def plain_rope(head_dim: int, positions: int) -> Rope:
    """Rotation tables without scaling."""
    angles = np.outer(np.arange(positions), 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    return Rope(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def vector(rng: np.random.Generator, size: int) -> Floats:
    """Norm weights: near one."""
    return rng.uniform(0.5, 1.5, size).astype(np.float32)


def bias(rng: np.random.Generator, shape: Shape, size: int) -> Floats | None:
    """A random bias, where the shape has biases."""
    return rng.normal(0, 0.3, size).astype(np.float32) if shape.bias else None


def attention(rng: np.random.Generator, shape: Shape, layer: int, rope: Rope) -> list[Op]:
    """Norm, Qkv, Attend, Proj."""
    form, inputs, keys = act(shape), shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    q, k, v = (random_weight(rng, shape, rows, shape.width) for rows in (inputs, keys, keys))
    q_bias, k_bias, v_bias = (bias(rng, shape, rows) for rows in (inputs, keys, keys))
    return [
        Norm(Norming("rms", vector(rng, shape.width), eps=1e-5), form),
        Qkv(q, k, v, q_bias, k_bias, v_bias, rope=rope, layer=layer, act=form),
        Attend(layer, 2 * shape.head_dim**-0.5, form),  # sharper than usual, so that places matter
        Proj(random_weight(rng, shape, shape.width, inputs), bias(rng, shape, shape.width), form),
    ]


def feed_forward(rng: np.random.Generator, shape: Shape) -> list[Op]:
    """Norm, FfnIn, Proj."""
    form = act(shape)
    gate, up = (random_weight(rng, shape, shape.inner, shape.width) for _ in range(2))
    gate_bias, up_bias = (bias(rng, shape, shape.inner) for _ in range(2))
    return [
        Norm(Norming("rms", vector(rng, shape.width), eps=1e-6), form),
        FfnIn(gate, up, gate_bias, up_bias, "silu", form, form),
        Proj(random_weight(rng, shape, shape.width, shape.inner), bias(rng, shape, shape.width), form, source=1),
    ]


def make_program(rng: np.random.Generator, shape: Shape, parts: str, max_len: int = 544) -> Program:
    """A program of Embed, the `parts` of each layer ("a": attention, "f": feed-forward), and Head.

    "e" in parts: the embedding has the shape's layout, "h": the head has it, "t": they are one weight, tied. What is
    not named is float32, so that an error is an error of the part under test.
    """
    plain, vocab = Shape(width=shape.width), shape.vocab
    table = random_weight(rng, shape if "e" in parts or "t" in parts else plain, vocab, shape.width)
    head = table if "t" in parts else random_weight(rng, shape if "h" in parts else plain, vocab, shape.width)
    rope = plain_rope(shape.head_dim, max_len)
    ops: list[Op] = [Embed(table, 1.0 if "t" in parts else 3.5)]
    for layer in range(shape.layers):
        ops += attention(rng, shape, layer, rope) if "a" in parts else []
        ops += feed_forward(rng, shape) if "f" in parts else []
    last = act(shape if "h" in parts or "t" in parts else plain)
    ops.append(Head(Norming("rms", vector(rng, shape.width), eps=1e-5), head, None, last))
    kv = KvLayout(shape.layers, shape.kv_heads, shape.head_dim, shape.kv_dtype)
    return Program(tuple(ops), shape.width, shape.heads, kv, vocab, max_len)
