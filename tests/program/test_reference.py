"""The reference executor: its operations against plain loops, and its steps against the same text computed at once."""

from __future__ import annotations

import math

import numpy as np
import op_cases
import pytest
from op_cases import Texts

from octavo.bench.cases import Shape, make_program, plain_rope
from octavo.kernels.weight import Layout, from_bfloat16, to_bfloat16
from octavo.program import ops
from octavo.program.equations import attention, form, normed, rotate, silu
from octavo.program.ops import Act, Attend, Norming, Program
from octavo.program.reference import Reference

CASES = {case.name: case for case in op_cases.cases()}


def whole(program: Program, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Logits of some rows of one text computed in one step, alone, in ordered pages."""
    rng = np.random.default_rng(0)
    executor = Reference(program)
    texts = Texts.placed(rng, [tokens])
    executor.allocate(texts.pages)
    return executor.logits(texts.batch(rng, [(0, 0, len(tokens))], more=1))[rows]


def test_cases_reach_every_operation_layout_form_and_border() -> None:
    matrices = {
        ops.Embed: lambda op: op.table,
        ops.Qkv: lambda op: op.q,
        ops.Proj: lambda op: op.weight,
        ops.FfnIn: lambda op: op.gate,
        ops.Head: lambda op: op.weight,
    }
    every = [op for case in CASES.values() for op in case.program.ops]
    seen = {(type(op), matrices[type(op)](op).layout) for op in every if type(op) in matrices}
    assert seen == {(kind, layout) for kind in matrices for layout in Layout}
    norms = {(op.act.bits, op.act.group) for op in every if isinstance(op, ops.Norm)}
    assert norms >= {(32, 0), (16, 0), (8, 32), (8, 64), (8, 128)}
    batches = [batch for case in CASES.values() for batch in case.batches]
    assert {31, 32, 33, 511, 512, 513} <= {int(n) for batch in batches for n in batch.kv_lens}
    assert any(len(batch.head.rows) == 0 for batch in batches)
    mixed = [np.diff(batch.starts) for batch in batches]
    assert any((counts == 1).any() and (counts > 32).any() for counts in mixed)
    assert len(CASES) == len(op_cases.cases())


def test_float32_and_bfloat16_forms() -> None:
    values = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    assert form(values, Act(32)) is values
    np.testing.assert_array_equal(form(values, Act(16)), from_bfloat16(to_bfloat16(values)))
    assert np.abs(form(values, Act(16)) / values - 1).max() <= 2**-8


def test_int8_form_is_codes_times_scales() -> None:
    values = np.zeros((2, 64), np.float32)
    values[0, :6] = [127, -127, 0.5, 1.5, 2.5, -0.5]  # halves go to even
    values[1, 32:34] = [-2.54, 0.019]
    out = form(values, Act(8, 32))
    assert out[0, :6].tolist() == [127, -127, 0, 2, 2, 0]
    np.testing.assert_allclose(out[1, 32:35], [-2.54, 0.02, 0], rtol=1e-6)
    assert not out[1, :32].any()
    random = np.random.default_rng(1).normal(size=(5, 256)).astype(np.float32)
    for group in (32, 64, 128):
        step = np.abs(random.reshape(5, -1, group)).max(axis=2, keepdims=True) / 127
        error = np.abs(form(random, Act(8, group)) - random).reshape(5, -1, group)
        assert (error <= step * 0.5001).all()
        assert (error.max(axis=2, keepdims=True) > step * 0.3).all()


def test_norm_and_silu_follow_their_equations() -> None:
    x = np.random.default_rng(0).normal(0, 5, (4, 50)).astype(np.float32)
    weight = np.linspace(0.5, 2, 50).astype(np.float32)
    expected = [[v / math.sqrt(sum(u * u for u in row) / 50 + 1e-3) for v in row] for row in x.astype(float)]
    np.testing.assert_allclose(normed(x, Norming("rms", weight, eps=1e-3)), np.array(expected) * weight, rtol=2e-6)
    with np.errstate(over="ignore"):
        found = silu(np.array([-200, -1, 0, 1, 200], np.float32))
    np.testing.assert_allclose(found, [0, -1 / (1 + math.e), 0, 1 / (1 + 1 / math.e), 200], rtol=1e-6)


def test_rotation_turns_halves_and_keeps_relative_products() -> None:
    rng = np.random.default_rng(0)
    tables = plain_rope(16, 100)
    q, k = rng.normal(size=(2, 1, 1, 16)).astype(np.float32)

    def product(i: int, j: int) -> float:
        at = [np.array([p], np.int32) for p in (i, j)]
        return float((rotate(q, tables, at[0]) * rotate(k, tables, at[1])).sum())

    assert product(7, 3) == pytest.approx(product(97, 93), rel=1e-4)
    turned = rotate(q, tables, np.array([5], np.int32))[0, 0]
    first = complex(q[0, 0, 0], q[0, 0, 8]) * np.exp(5j)  # pair 0 turns by one radian each position
    assert (turned[0], turned[8]) == pytest.approx((first.real, first.imag), rel=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (7, 1)])
def test_attention_equals_plain_loops(heads: int, kv_heads: int) -> None:
    rng = np.random.default_rng(heads)
    q = rng.normal(size=(5, heads, 8)).astype(np.float32)
    keys, values = rng.normal(size=(2, 37, kv_heads, 8)).astype(np.float32)
    positions, op = np.arange(32, 37, dtype=np.int32), Attend(0, 0.7, Act(32))
    expected = np.zeros(q.shape)
    for token, position in enumerate(positions):
        for head in range(heads):
            source = head // (heads // kv_heads)
            scores = [math.exp(0.7 * np.dot(q[token, head], keys[p, source])) for p in range(position + 1)]
            for p, score in enumerate(scores):
                expected[token, head] += score / sum(scores) * values[p, source]
    np.testing.assert_allclose(attention(q, keys, values, positions, op, "float32"), expected, atol=1e-5)
    narrow = attention(q, keys, values, positions, op, "bfloat16")
    np.testing.assert_allclose(narrow, expected, atol=0.03)
    assert np.abs(narrow - expected).max() > 1e-4


@pytest.mark.parametrize("name", [name for name in CASES if "shared" not in name])
def test_steps_equal_the_text_computed_at_once(name: str) -> None:
    """Chunks, company, scattered pages: none of it shows, but for float32 rounding and what it tips over in int8."""
    case = CASES[name]
    texts = case.texts
    executor = Reference(case.program)
    executor.allocate(case.pages)
    exact = (
        all(getattr(op, "act", Act(32)).bits == 32 for op in case.program.ops) and case.program.kv.dtype == "float32"
    )
    once = [whole(case.program, tokens, np.arange(len(tokens))) for tokens in texts.tokens]
    for batch in case.batches:
        logits = executor.logits(batch)
        runs = np.searchsorted(batch.starts, batch.head.rows, side="right") - 1
        for row, run in enumerate(runs):
            expected = once[batch.slots[run]][batch.positions[batch.head.rows[row]]]
            np.testing.assert_allclose(logits[row], expected, atol=5e-5 if exact else 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_shared_pages_equal_recomputation(dtype: str) -> None:
    case = CASES[f"attention/shared-prefix/{dtype}"]
    executor = Reference(case.program)
    executor.allocate(case.pages)
    found = [executor.logits(batch) for batch in case.batches]
    batch = case.batches[1]  # slot 1 from position 64 on, its first two pages never computed by it
    expected = whole(case.program, case.texts.tokens[1], batch.positions[batch.head.rows])
    np.testing.assert_allclose(found[1], expected, atol=5e-5 if dtype == "float32" else 0.05)


def test_a_step_done_twice_gives_the_same_bits() -> None:
    case = CASES["whole/W4M"]
    executor = Reference(case.program)
    executor.allocate(case.pages)
    for batch in case.batches:
        first, again = executor.logits(batch), executor.logits(batch)
        np.testing.assert_array_equal(first, again)
        drawn = executor.run(batch)
        assert drawn.tokens.shape == batch.head.rows.shape
        assert not drawn.bad.any()


def test_reading_what_was_never_written_makes_a_bad_row() -> None:
    rng = np.random.default_rng(0)
    program = make_program(rng, Shape(kv_dtype="bfloat16"), "af")
    texts = Texts.random(rng, (40, 8))
    executor = Reference(program)
    executor.allocate(texts.pages)
    drawn = executor.run(texts.batch(rng, [(0, 33, 7), (1, 0, 8)]))  # positions 0..32 of slot 0 are missing
    assert drawn.bad.tolist() == [1, 0]


def test_pages_are_copied_and_read_before_any_is_written() -> None:
    program = make_program(np.random.default_rng(0), Shape(kv_dtype="float32", layers=2), "af")
    executor = Reference(program)
    executor.allocate(4)
    executor._held[:] = np.arange(4)[:, None, None, None]
    executor.copy(((0, 1), (1, 0), (1, 3)))
    assert [np.unique(executor._held[:, :, page]).tolist() for page in range(4)] == [[1], [0], [2], [1]]


def test_memory_is_what_the_layout_declares() -> None:
    for dtype in ("bfloat16", "float32"):
        program = make_program(np.random.default_rng(0), Shape(kv_dtype=dtype, layers=2), "af")
        executor = Reference(program)
        executor.allocate(3)
        assert executor._held.nbytes == 3 * program.kv.page_bytes
        assert executor.workspace_bytes() > 0
        executor.close()
        executor.close()
