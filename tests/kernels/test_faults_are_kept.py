"""A value that is not finite must reach the row's logits, whatever integers, roundings and maxima lie on the way."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import act_of, identity_head, of_codes, program, random_floats, random_words, step

from octavo.bench.cases import plain_rope
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import FLOATS, HALVES, QUANTIZED, Layout, Weight, to_bfloat16
from octavo.program.batch import Batch
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, Attend, FfnIn, Head, Norm, Norming, Op, Program, Proj, Qkv
from octavo.program.reference import Reference

ISAS = native.isas()
WIDTH = 64
ONES = np.ones(WIDTH, np.float32)
ONE = Norming("rms", ONES)


def bad(made: Program, batches: list[Batch], pages: int, isa: str | None, threads: int = 2) -> list[int]:
    """Rows marked bad, over all steps; by the reference where isa is None."""
    executor = Reference(made) if isa is None else Cpu(made, threads, max_tokens=600, isa=isa)
    executor.allocate(pages)
    with np.errstate(all="ignore"):
        marks = np.concatenate([executor.run(batch).bad for batch in batches])
    executor.close()
    return np.flatnonzero(marks).tolist()


@pytest.mark.parametrize(
    ("place", "sign", "dtype"), [(3, 1, "float32"), (3, -1, "bfloat16"), (530, -1, "float32"), (530, 1, "bfloat16")]
)
def test_a_key_that_overflows(place: int, sign: int, dtype: str) -> None:
    """Scores of infinity against one key, in the first 512 keys or after: whole, and token by token at the end."""
    rng = np.random.default_rng(0)
    count = 540
    x = rng.normal(0, 1, (count, WIDTH)).astype(np.float32)
    x[:, 0], x[place, 0] = 0, 8
    q = rng.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
    k = q.copy()
    k[5, 0] = sign * 3e38  # times what stands in column 0 of one row only
    ops: tuple[Op, ...] = (
        Norm(ONE, Act(32)),
        Qkv(*map(Weight.float32, (q, k, q)), None, None, None, rope=plain_rope(32, 1024), layer=0, act=Act(32)),
        Attend(0, 0.2, Act(32)),
        Proj(Weight.float32(q), None, Act(32)),
    )
    made = program(x, ops, identity_head(WIDTH), KvLayout(1, 2, 32, dtype), 2)
    for runs in (((0, count),), ((0, 529), (529, 8), (537, 1), (538, 1), (539, 1))):
        batches, texts = step(count, runs)
        want = bad(made, batches, texts.pages, None)
        assert want and want[0] >= place
        for isa in ISAS:
            assert bad(made, batches, texts.pages, isa) == want, isa


def last_bits() -> np.ndarray:
    """NaNs all of whose low bits are set, as CUDA makes them: rounding them up to bfloat16 would give zero."""
    return np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("layout", "group"), [*((layout, 32) for layout in Layout), *((layout, 16) for layout in HALVES)]
)
def test_any_nan_in_any_place(isa: str, layout: Layout, group: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (40, WIDTH)).astype(np.float32)
    faults = {3: (0, last_bits()[0]), 17: (63, last_bits()[1]), 18: (31, np.inf), 39: (32, np.nan)}
    for row, (column, value) in faults.items():
        x[row, column] = value
    values = rng.normal(0, 1, (WIDTH, WIDTH)).astype(np.float32)
    scale = np.ones((WIDTH, WIDTH // group), np.float16)
    if layout in QUANTIZED:
        weight = of_codes(layout, rng.integers(1, 16, (WIDTH, WIDTH)).astype(np.uint8), scale, scale)
    elif layout is Layout.W16:
        weight = random_words(rng, WIDTH, WIDTH, group, 1.0)
    elif layout in FLOATS:
        weight = random_floats(rng, layout, WIDTH, WIDTH, group, 1.0)
    else:
        weight = Weight.float32(values) if layout is Layout.F32 else Weight.bfloat16(to_bfloat16(values))
    made = program(x, (), Head(ONE, weight, None, act_of(layout, group)), KvLayout(1, 1, 32), 1)
    batches, texts = step(len(x))
    assert bad(made, batches, texts.pages, isa) == list(faults)


@pytest.mark.parametrize("isa", ISAS)
def test_a_feed_forward_that_overflows_before_int8(isa: str) -> None:
    """An infinite gate times zero is NaN: neither the largest of its group nor any integer."""
    x = np.ones((9, WIDTH), np.float32)
    x[:, 0] = 0
    x[4, 0] = 1
    scale = np.ones((WIDTH, 2), np.float16)
    codes = np.zeros((WIDTH, WIDTH), np.int8)
    codes[7, 0] = 100  # output 7, not the last of its group, times the norm's huge weight
    gate, up = Weight.int8(codes, scale), Weight.int8(0 * codes, scale)
    form = Act(8, 32)
    huge = Norming("rms", ONES * np.float32(1e37))
    ops = (Norm(huge, form), FfnIn(gate, up, None, None, "silu", form, form), Proj(gate, None, form, source=1))
    made = program(x, ops, identity_head(WIDTH), KvLayout(1, 1, 32), 1)
    batches, texts = step(len(x))
    want = bad(made, batches, texts.pages, None)
    assert want == [4]
    assert bad(made, batches, texts.pages, isa) == want


@pytest.mark.parametrize("isa", ISAS)
def test_finite_rows_are_not_marked(isa: str) -> None:
    """Squares that overflow give zero, as in the reference, in integers too."""
    x = np.ones((5, WIDTH), np.float32)
    x[2] = 1e30
    codes = np.eye(WIDTH, dtype=np.int8)
    weight = Weight.int8(codes, np.ones((WIDTH, 2), np.float16))
    made = program(x, (), Head(ONE, weight, None, Act(8, 32)), KvLayout(1, 1, 32), 1)
    batches, texts = step(len(x))
    assert bad(made, batches, texts.pages, isa) == []
