"""Mixtures of experts: the native kernels against the reference, and the equations against their plain words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from moe_cases import Mixture, mixtures, program
from op_cases import Texts
from parity import all_logits, rounds

from octavo.bench.cases import Shape
from octavo.core.errors import ModelError
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight
from octavo.program.cost import by_kind, costs
from octavo.program.cpu import Cpu
from octavo.program.equations import chosen
from octavo.program.ops import MoeIn, MoeOut, Op, Proj, Route
from octavo.program.reference import Reference

CASES = {case.name: case for case in mixtures()}


@pytest.mark.parametrize("name", CASES)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    case = CASES[name]
    want = all_logits(Reference(case.program), case)
    size = np.abs(want).max()
    for isa in native.isas():
        error = np.abs(all_logits(Cpu(case.program, 1, max_tokens=192, isa=isa), case) - want)
        if rounds(case):  # a rounding may make a token choose another expert, all of whose logits differ then
            assert np.median(error) < 0.01 * size, isa
            assert np.quantile(error.max(axis=1), 0.8) < 0.1 * size, isa
        else:
            assert error.max() < 4e-6 * size, isa


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("name", ["moe/all-on-two", "moe/one-and-any", *(f"moe/{each.name}/many" for each in Layout)])
def test_a_row_is_the_same_bits_whatever_runs_beside_it(name: str, isa: str) -> None:
    case, rng = CASES[name], np.random.default_rng(4)
    lengths = [len(text) for text in case.texts.tokens]
    whole = [case.texts.batch(rng, [(slot, 0, length) for slot, length in enumerate(lengths)], more=1)]
    alone = [case.texts.batch(rng, [(slot, 0, length)], more=1) for slot, length in enumerate(lengths)]
    single = [case.texts.batch(rng, [(1, position, 1)]) for position in range(lengths[1])]
    rows: dict[tuple[int, int], np.ndarray] = {}  # by (slot, position)
    for threads, batches in ((1, whole), (3, whole), (2, alone), (2, single), (2, case.batches)):
        executor = Cpu(case.program, threads, max_tokens=sum(lengths), isa=isa)
        executor.allocate(case.pages)
        for batch in batches:
            slots = np.repeat(batch.slots, np.diff(batch.starts))[batch.head.rows]
            for slot, position, row in zip(
                slots, batch.positions[batch.head.rows], executor.logits(batch), strict=True
            ):
                first = rows.setdefault((int(slot), int(position)), row)
                assert np.array_equal(first.view(np.uint32), row.view(np.uint32)), (slot, position)
        executor.close()


def test_a_token_that_is_no_number_harms_no_other() -> None:
    """Its scores are NaN: it may go anywhere, and the rest of the step is as without it."""
    rng = np.random.default_rng(0)
    made = program(rng, Mixture(Shape(vocab=64), 16, 4, push=(0.5,)))
    embed = made.ops[0]
    table = embed.table.dequantize()  # type: ignore[union-attr]
    table[7] = np.nan
    broken = dataclasses.replace(
        made,
        ops=(dataclasses.replace(embed, table=Weight.float32(table)), *made.ops[1:]),  # type: ignore[type-var]
    )
    tokens = rng.integers(8, 64, 40).astype(np.int32)
    results = []
    for each, ids in ((made, tokens), (broken, np.where(np.arange(40) == 20, 7, tokens).astype(np.int32))):
        texts = Texts.placed(rng, [ids])
        executor = Cpu(each, 2, max_tokens=64)
        executor.allocate(texts.pages)
        results.append(executor.logits(texts.batch(rng, [(0, 0, 40)], more=1)))
        executor.close()
    others = np.arange(40) != 20
    assert np.array_equal(results[0][others], results[1][others])
    assert not np.isfinite(results[1][20]).any()


def router(experts: int) -> Weight:
    return Weight.float32(np.zeros((experts, 4), np.float32))


def test_shares_of_a_softmax_are_its_scores_or_add_up_to_the_scale() -> None:
    z = np.log(np.array([[1, 4, 2, 3]], np.float32))
    experts, shares = chosen(z, Route(router(4), None, 2))
    assert experts.tolist() == [[1, 3]]
    np.testing.assert_allclose(shares, [[0.4, 0.3]], rtol=1e-6)
    _, shares = chosen(z, Route(router(4), None, 2, renormalise=True, scale=7))
    np.testing.assert_allclose(shares, [[4, 3]], rtol=1e-6)


def test_a_correction_changes_who_is_chosen_and_not_the_shares() -> None:
    z = np.array([[0, 1, 2, -1]], np.float32)
    correction = np.array([0, 0, -9, 9], np.float32)
    experts, shares = chosen(z, Route(router(4), None, 2, scoring="sigmoid", correction=correction))
    assert experts.tolist() == [[3, 1]]
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-z[:, [3, 1]])), rtol=1e-6)


def test_experts_come_from_the_best_groups_only() -> None:
    z = np.array([[5, 0, 3, 3, 4, 1]], np.float32)
    by_best = Route(router(6), None, 2, groups=3, top_groups=1, group_top=1)
    by_two = dataclasses.replace(by_best, group_top=2)
    assert chosen(z, by_best)[0].tolist() == [[0, 1]]
    assert chosen(z, by_two)[0].tolist() == [[2, 3]]


def test_equal_experts_are_taken_by_number() -> None:
    assert chosen(np.zeros((1, 5), np.float32), Route(router(5), None, 3))[0].tolist() == [[0, 1, 2]]


def changed(kind: type, **fields: object) -> list[Op]:
    """The ops of a mixture, one of them changed."""
    made = program(np.random.default_rng(0), Mixture(shared=True))
    return [dataclasses.replace(op, **fields) if isinstance(op, kind) else op for op in made.ops]  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (changed(Route, top=9), "9 of 8 experts"),
        (changed(Route, groups=3), "3 groups"),
        (changed(Route, groups=4, top_groups=1), "groups divide the experts evenly, and those taken hold enough"),
        (changed(Route, groups=2, group_top=5), "2 groups by 5"),
        (changed(Route, scoring="tanh"), "'tanh'; it may be softmax, sigmoid"),
        (changed(Route, bias=np.zeros(3, np.float32)), "bias: 3 numbers where 8"),
        (changed(Route, gate=None), "no Route before it has a gate"),
        (changed(Route, top=2), "3 of 8 experts, but the Route before it chooses 2 of 8"),
        (changed(MoeIn, activation="tanh"), "'tanh'; it may be"),
        (changed(MoeIn, out=0), r"reads and writes h\[0\]"),
        (changed(MoeOut, source=0), "reads 3 rows of a token, but 1 were written"),
        (changed(Proj, source=0), "reads an input of 64"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(ops: list[Op], message: str) -> None:
    made = dataclasses.replace(program(np.random.default_rng(0), Mixture(shared=True)), ops=tuple(ops))
    with pytest.raises(ModelError, match=message):
        Cpu(made, 1)


def test_cost_counts_the_experts_that_a_step_reads() -> None:
    made = program(np.random.default_rng(0), Mixture(experts=16, top=2))
    texts = Texts.random(np.random.default_rng(0), (40,))
    matrix = next(op for op in made.ops if isinstance(op, MoeOut)).weights[0].nbytes
    for tokens, low, high in ((1, 2, 2), (2, 3, 4), (40, 15, 16)):
        batch = texts.batch(np.random.default_rng(0), [(0, 0, tokens)])
        found = by_kind(made, costs(made, batch))
        assert low * matrix <= found["moe_out"].read <= high * matrix
        assert found["moe_in"].read in range(2 * found["moe_out"].read - 2, 2 * found["moe_out"].read + 3)
        assert found["moe_out"].fp32 == tokens * 2 * 2 * 64 * 96
