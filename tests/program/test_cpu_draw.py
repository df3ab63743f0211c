"""Drawing in the native executor against program/sampling.py, on the same logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from draw_cases import ISAS, executor, naming, near_edge, peaked, rows_of
from op_cases import Texts

from octavo.bench.cases import QUANTIZED, Shape, make_program
from octavo.kernels.weight import Layout, Weight
from octavo.program import sampling
from octavo.program.batch import Batch, Drawn, HeadRows
from octavo.program.cpu import HEAD_ROWS, Cpu
from octavo.program.ops import Embed


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("vocab", "spread", "shaped"),
    [(211, 2.0, False), (5003, 3.0, False), (5003, 0.01, False), (49153, 1.5, False), (5003, 3.0, True)],
)
def test_every_row_draws_what_the_reference_draws(isa: str, vocab: int, spread: float, shaped: bool) -> None:
    cpu = executor(peaked(vocab, spread, shaped=shaped), isa)
    batch = naming(rows_of(vocab, 150), vocab)
    logits = cpu.logits(batch)
    want, got = sampling.draw(logits, batch.head), cpu.run(batch)
    reported = batch.head.top >= 0
    same = want.tokens == got.tokens
    for row in np.flatnonzero(~same):
        assert near_edge(logits[row], batch.head, row), (row, want.tokens[row], got.tokens[row])
    assert same.mean() > 0.97
    assert np.array_equal(want.bad, got.bad)
    both = same & reported
    assert np.array_equal(want.ranks[both], got.ranks[both])
    np.testing.assert_allclose(got.logprobs[both], want.logprobs[both], rtol=1e-5, atol=1e-5)
    assert np.array_equal(want.top_ids, got.top_ids)
    np.testing.assert_allclose(got.top_logprobs, want.top_logprobs, rtol=1e-5, atol=1e-5)
    assert not got.logprobs[~reported].any()
    assert not got.ranks[~reported].any()


def test_draws_follow_the_distribution() -> None:
    """Chi-square over many seeds of one row."""
    program = peaked(64, 1.0)
    cpu = executor(program, ISAS[0])
    batch = rows_of(64, 1)
    plain = {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "presence": 0, "frequency": 0, "repetition": 1}
    counts, seeds = np.zeros(64), np.random.default_rng(3).integers(0, 2**63, 8000)
    head = dataclasses.replace(
        batch.head,
        target=np.array([-1], np.int32),
        top=np.array([-1], np.int32),
        bias_starts=np.zeros(2, np.int64),
        history_starts=np.zeros(2, np.int64),
        **{name: np.array([value], getattr(batch.head, name).dtype) for name, value in plain.items()},
    )
    logits = cpu.logits(batch)
    for seed in seeds:  # drawn one by one, as the engine does
        drawn = cpu.run(dataclasses.replace(batch, head=dataclasses.replace(head, seed=np.array([seed], np.uint64))))
        counts[drawn.tokens[0]] += 1
    shares = sampling.probabilities(logits[0], temperature=0.8, top_p=0.9)
    assert not counts[shares == 0].any()
    likely = shares > 0
    expected = shares[likely] * len(seeds)
    statistic = ((counts[likely] - expected) ** 2 / expected).sum()
    degrees = likely.sum() - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


MANNERS = {
    "greedy": {"temperature": 0.0},
    "all": {"temperature": 1.1},
    "nucleus": {"temperature": 0.7, "top_p": 0.9},
    "wide nucleus": {"temperature": 1.1, "top_p": 0.96},
    "hot nucleus": {"temperature": 1.5, "top_p": 0.9},
    "few": {"temperature": 0.8, "top_k": 5},
    "all that fit in lanes": {"temperature": 1.0, "top_k": 64, "top_p": 0.8},
    "more than fit": {"temperature": 1.0, "top_k": 65, "min_p": 0.01},
    "near the top": {"temperature": 1.0, "min_p": 0.05, "top_p": 0.95},
    "cold": {"temperature": 0.01, "min_p": 1e-30},
}


def drawn_alike(cpu: Cpu, batch: Batch, got: Drawn) -> float:
    """The share of rows drawn as by the reference; the others lie near an edge."""
    logits = cpu.logits(batch)
    want = sampling.draw(logits, batch.head)
    for row in np.flatnonzero(want.tokens != got.tokens):
        assert near_edge(logits[row], batch.head, row), (row, want.tokens[row], got.tokens[row])
    return float((want.tokens == got.tokens).mean())


def one_manner(batch: Batch, **settings: float) -> Batch:
    """All rows drawn in one way, each with its own seed, nothing adjusted and nothing reported."""
    rows = len(batch.head.rows)
    plain = {"target": -1, "top": -1, "top_k": 0, "top_p": 1, "min_p": 0, "prompt_lens": 0, **settings}
    columns = {name: np.full(rows, value, getattr(batch.head, name).dtype) for name, value in plain.items()}
    none = np.zeros(rows + 1, np.int64)
    return dataclasses.replace(
        batch, head=dataclasses.replace(batch.head, **columns, history_starts=none, bias_starts=none)
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize(("vocab", "spread"), [(300, 2.0), (20011, 0.01), (20011, 3.0), (20011, 12.0)])
def test_rows_read_once_draw_what_held_rows_and_the_reference_draw(
    isa: str, manner: str, vocab: int, spread: float
) -> None:
    """Few or all tokens may be drawn, by chance or for lack of room a row is projected twice: the token is the same."""
    program = peaked(vocab, spread)
    batch = one_manner(rows_of(vocab, 70), **MANNERS[manner])
    cpu = executor(program, isa)
    got = cpu.run(batch)
    held = cpu.run(dataclasses.replace(batch, head=dataclasses.replace(batch.head, top=batch.head.top + 1)))
    assert np.array_equal(got.tokens, held.tokens)
    assert not held.bad.any()
    assert np.array_equal(got.tokens, executor(program, isa, threads=1).run(batch).tokens)
    assert drawn_alike(cpu, batch, got) > 0.9


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [211, 5003])
def test_masked_rows_draw_what_the_mask_allows(isa: str, vocab: int) -> None:
    """Few, many or one token allowed; with everything else that shapes a draw; reports are of the raw logits."""
    rng = np.random.default_rng(5)
    batch = rows_of(vocab, 120)
    words = (vocab + 31) // 32
    bits = rng.random((90, words * 32)) < rng.choice([0.0, 0.02, 0.5, 1.0], (90, 1))
    bits[np.arange(90), rng.integers(0, vocab, 90)] = True
    masks = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    mask = rng.integers(-1, 90, 120).astype(np.int32)
    cpu = executor(peaked(vocab, 2.0), isa)
    masked = dataclasses.replace(batch, head=dataclasses.replace(batch.head, mask=mask, masks=masks))
    got, plain = cpu.run(masked), cpu.run(batch)
    draws = (batch.head.target < 0) & (mask >= 0)
    assert bits[mask[draws], got.tokens[draws]].all()
    assert np.array_equal(got.tokens[~draws], plain.tokens[~draws])
    assert np.array_equal(got.top_ids, plain.top_ids)
    assert np.array_equal(got.top_logprobs, plain.top_logprobs)
    assert drawn_alike(cpu, masked, got) > 0.97


PER_ROW = {field.name for field in dataclasses.fields(HeadRows)} - {
    "masks",
    "history_starts",
    "history",
    "bias_starts",
    "bias_ids",
    "bias_values",
}


def masks_of(rng: np.random.Generator, rows: int, vocab: int) -> np.ndarray:
    """Masks of one token, of some near each other, of some anywhere, and of most. [rows, vocab padded] bits"""
    bits = np.zeros((rows, (vocab + 31) // 32 * 32), np.bool_)
    for row in range(rows):
        first = rng.integers(0, vocab)
        near = np.arange(first, min(vocab, first + 40))
        bits[row, [[first], near, rng.integers(0, vocab, 30), np.flatnonzero(rng.random(vocab) < 0.9)][row % 4]] = True
    return bits


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("vocab", [300, 20011])
def test_masked_rows_skip_what_they_may_not_draw_and_draw_the_same(isa: str, manner: str, vocab: int) -> None:
    """Whatever the company, beside rows that keep their logits, and a second time where one look is not enough."""
    rows, rng = 70, np.random.default_rng(6)
    batch = one_manner(rows_of(vocab, rows), **MANNERS[manner])
    bits = masks_of(rng, rows, vocab)
    masks = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    mask = np.where(rng.random(rows) < 0.2, -1, np.arange(rows)).astype(np.int32)
    masked = dataclasses.replace(batch, head=dataclasses.replace(batch.head, mask=mask, masks=masks))
    cpu = executor(peaked(vocab, 3.0), isa)
    got = cpu.run(masked)
    assert bits[mask, got.tokens][mask >= 0].all()
    held = cpu.run(dataclasses.replace(masked, head=dataclasses.replace(masked.head, top=masked.head.top + 1)))
    assert np.array_equal(got.tokens, held.tokens)
    for kept in (np.arange(rows) % 3 == 1, np.arange(rows) == 40, mask >= 0):
        head = masked.head
        columns = {name: getattr(head, name)[kept] for name in PER_ROW if len(getattr(head, name))}
        some = dataclasses.replace(head, **columns, history_starts=head.history_starts[: kept.sum() + 1],
                                   bias_starts=head.bias_starts[: kept.sum() + 1])  # fmt: skip
        assert np.array_equal(cpu.run(dataclasses.replace(masked, head=some)).tokens, got.tokens[kept])
    assert drawn_alike(cpu, masked, got) > 0.9


@pytest.mark.parametrize("isa", ISAS)
def test_a_mask_that_leaves_nothing_harms_nobody(isa: str) -> None:
    batch = one_manner(rows_of(5003, 20), **MANNERS["few"])
    masks = np.full((2, (5003 + 31) // 32), -1, np.int32)
    masks[1] = 0
    mask = np.where(np.arange(20) == 11, 1, 0).astype(np.int32)
    cpu = executor(peaked(5003, 3.0), isa)
    free = cpu.run(batch)
    got = cpu.run(dataclasses.replace(batch, head=dataclasses.replace(batch.head, mask=mask, masks=masks)))
    assert np.array_equal(np.delete(got.tokens, 11), np.delete(free.tokens, 11))
    assert 0 <= got.tokens[11] < 5003 and not got.bad.any()


@pytest.mark.parametrize("isa", ISAS)
def test_more_rows_than_are_held_at_once(isa: str) -> None:
    count = 2 * HEAD_ROWS + 7  # some of them held, some not
    cpu = executor(peaked(300, 2.0), isa)
    batch = rows_of(300, count)
    whole = cpu.run(batch)
    for row in (0, HEAD_ROWS - 1, HEAD_ROWS, count - 1):
        one = batch.head
        span = slice(one.history_starts[row], one.history_starts[row + 1])
        biases = slice(one.bias_starts[row], one.bias_starts[row + 1])
        alone = HeadRows(
            **{name: getattr(one, name)[row : row + 1] for name in PER_ROW},
            history_starts=np.array([0, span.stop - span.start], np.int64),
            history=one.history[span].copy(),
            bias_starts=np.array([0, biases.stop - biases.start], np.int64),
            bias_ids=one.bias_ids[biases].copy(),
            bias_values=one.bias_values[biases].copy(),
        )
        drawn = cpu.run(dataclasses.replace(batch, head=alone))
        width = drawn.top_ids.shape[1]
        assert drawn.tokens[0] == whole.tokens[row]
        assert drawn.logprobs[0] == whole.logprobs[row]
        assert np.array_equal(drawn.top_logprobs[0], whole.top_logprobs[row][:width])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_marked_and_alone(isa: str, fault: float) -> None:
    program = peaked(300, 2.0)
    table = program.ops[0].table.dequantize()  # type: ignore[union-attr]
    table[7, 5] = fault
    ops = (Embed(Weight.float32(table)), program.ops[1])
    batch = rows_of(300, 20)
    ids = np.where(batch.ids == 7, 8, batch.ids).astype(np.int32)
    clean = executor(program, isa).run(dataclasses.replace(batch, ids=ids))
    ids = ids.copy()
    ids[13] = 7
    dirty = executor(dataclasses.replace(program, ops=ops), isa).run(dataclasses.replace(batch, ids=ids))
    assert np.flatnonzero(dirty.bad).tolist() == [13]
    mask = np.where(np.arange(20) % 2, 0, -1).astype(np.int32)  # of the faulty row too
    one = np.packbits(np.arange(320) == 250, bitorder="little").view(np.int32)[None]
    masked = dataclasses.replace(batch.head, mask=mask, masks=one)
    dirtier = executor(dataclasses.replace(program, ops=ops), isa)
    assert dirtier.run(dataclasses.replace(batch, ids=ids, head=masked)).bad.tolist() == dirty.bad.tolist()
    rest = np.arange(20) != 13
    assert np.array_equal(clean.tokens[rest], dirty.tokens[rest])
    assert np.array_equal(clean.logprobs[rest], dirty.logprobs[rest])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", [*QUANTIZED, Layout.W16])
def test_a_fault_survives_int8_and_stays_with_its_sequence(layout: Layout, isa: str) -> None:
    """A NaN in the residual stream must not be lost where inputs are rounded to integers, nor reach the others."""
    rng = np.random.default_rng(2)
    program = make_program(rng, Shape(layout, layers=2), "afh")
    embed = program.ops[0]
    assert isinstance(embed, Embed)
    table = embed.table.dequantize()
    table[3] = np.nan
    broken = dataclasses.replace(program, ops=(Embed(Weight.float32(table)), *program.ops[1:]))
    texts = Texts.placed(rng, [np.array(ids, np.int32) for ids in ([1, 2, 3, 4, 5], [5, 4, 2, 1], [3])])
    batch = texts.batch(rng, [(0, 0, 5), (1, 0, 4), (2, 0, 1)])
    assert executor(broken, isa).run(batch).bad.tolist() == [1, 0, 1]
