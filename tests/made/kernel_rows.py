"""Programs of few ops around one kernel, with inputs that reach it without rounding, and their results.

`rows` are integers whose root mean square is exactly 64, so that a norm without epsilon divides them by 64 and nothing
is rounded before the kernel under test reads them.
"""

from __future__ import annotations

import math

import numpy as np
from op_cases import Texts

from octavo.bench.cases import NUMBERS, TABLE
from octavo.bench.steps import alike
from octavo.core.layout import KvLayout
from octavo.kernels.weight import FLOATS, QUANTIZED, WORD, Layout, Weight, read_as, to_bfloat16
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, Embed, Head, Norming, Op, Program

U = 2.0**-24  # half a unit in the last place of float32, relative


def two_squares(rest: int) -> tuple[int, int] | None:
    for a in range(math.isqrt(rest) + 1):
        b = math.isqrt(rest - a * a)
        if a * a + b * b == rest:
            return a, b
    return None


def exact_rows(rng: np.random.Generator, count: int, cols: int) -> np.ndarray:
    """Random integers, each row's mean square 4096. [count, cols]"""
    out = np.empty((count, cols), np.float32)
    for row in out:
        while True:
            body = np.rint(rng.normal(0, 60, cols - 2)).astype(int)
            rest = 4096 * cols - int((body**2).sum())
            ends = two_squares(rest) if rest >= 0 else None
            if ends is not None:
                break
        row[:] = rng.permutation([*body, *ends])
    return out


def act_of(layout: Layout, group: int) -> Act:
    """What weights of a layout read."""
    return Act(*read_as(layout, group))


def program(x: np.ndarray, ops: tuple[Op, ...], head: Head, kv: KvLayout, heads: int) -> Program:
    """Token i enters as row i of x."""
    embed = Embed(Weight.float32(x))
    return Program((embed, *ops, head), x.shape[1], heads, kv, head.weight.rows, 1024)


def identity_head(width: int) -> Head:
    """Logits are the normed rows."""
    return Head(
        Norming("rms", np.ones(width, np.float32), eps=0.0),
        Weight.float32(np.eye(width, dtype=np.float32)),
        None,
        Act(32),
    )


def step(count: int, runs: tuple[tuple[int, int], ...] | None = None):
    """One sequence of tokens 0, 1, ..., all rows wanted, in the chunks given (first, count), and its pages."""
    rng = np.random.default_rng(0)
    texts = Texts.placed(rng, [np.arange(count, dtype=np.int32)])
    batches = []
    for first, size in runs or ((0, count),):
        batch = texts.batch(rng, [(0, first, size)])
        object.__setattr__(batch, "head", alike(np.arange(size), temperature=0, top_p=1))
        batches.append(batch)
    return batches, texts


def head_logits(x: np.ndarray, norm: np.ndarray, weight: Weight, isa: str, threads: int = 1) -> np.ndarray:
    """weight act(norm(x)) by the native kernels. [rows, outputs]"""
    head = Head(Norming("rms", norm, eps=0.0), weight, None, act_of(weight.layout, weight.group))
    executor = Cpu(program(x, (), head, KvLayout(1, 1, 32), 1), threads, max_tokens=len(x), isa=isa)
    batches, texts = step(len(x))
    executor.allocate(texts.pages)
    logits = executor.logits(batches[0])
    executor.close()
    return logits


def random_matrix(rng: np.random.Generator, layout: Layout, rows: int, cols: int, group: int, size: float) -> Weight:
    """Scales vary over a thousandfold; a few rows are zero."""
    if layout in FLOATS:
        return random_floats(rng, layout, rows, cols, group, size)
    if layout is Layout.W16:
        return random_words(rng, rows, cols, group, size)
    if layout not in QUANTIZED:
        values = (rng.normal(0, size, (rows, cols)) * rng.uniform(0.01, 10, (rows, 1))).astype(np.float32)
        values[::7] = 0
        return Weight.float32(values) if layout is Layout.F32 else Weight.bfloat16(to_bfloat16(values))
    scale = (size * 10 ** rng.uniform(-2, 1, (rows, cols // group))).astype(np.float16)
    scale[::7] = 0
    signed = rng.integers(-128, 128, (rows, cols)).astype(np.int8)
    codes = rng.integers(0, 16, (rows, cols)).astype(np.uint8)
    minimum = (scale * rng.uniform(-9, 3, scale.shape)).astype(np.float16)
    return of_codes(layout, codes if layout in (Layout.W4, Layout.W4M, Layout.W4L) else signed, scale, minimum)


def random_floats(rng: np.random.Generator, layout: Layout, rows: int, cols: int, group: int, size: float) -> Weight:
    """Every finite code of F8, every place of F4's table; scales beyond what float16 holds."""
    scale = (size * 10 ** rng.uniform(-6, 1, (rows, cols // group))).astype(np.float32)
    scale[::7] = 0
    if layout is Layout.F4:
        return Weight.float4(rng.integers(0, 16, (rows, cols)).astype(np.uint8), scale, NUMBERS)
    codes = rng.integers(0, 127, (rows, cols)) + rng.choice([0, 128], (rows, cols))
    return Weight.float8(codes.astype(np.uint8), scale)


def random_words(rng: np.random.Generator, rows: int, cols: int, group: int, size: float) -> Weight:
    """W16 with the largest codes, too; scales beyond what float16 holds; a few rows are zero."""
    scale = (size * 10 ** rng.uniform(-6, 1, (rows, cols // group))).astype(np.float32)
    scale[::7] = 0
    codes = rng.integers(-WORD, WORD + 1, (rows, cols)).astype(np.int16)
    codes[:: min(5, rows)] = WORD
    return Weight.int16(codes, scale)


def of_codes(
    layout: Layout, codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray, table: np.ndarray = TABLE
) -> Weight:
    """A quantized matrix of any layout; what the layout has not is left out."""
    match layout:
        case Layout.W8:
            return Weight.int8(codes, scale)
        case Layout.W8M:
            return Weight.int8_min(codes, scale, minimum)
        case Layout.W4:
            return Weight.int4(codes, scale)
        case Layout.W4L:
            return Weight.int4_table(codes, scale, table)
        case _:
            return Weight.int4_min(codes, scale, minimum)
