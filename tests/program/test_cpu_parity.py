"""The native executor against the reference, every instruction set of this machine, op by op and whole.

Where nothing is rounded on the way, results agree to float32. Where activations are rounded (int8, bfloat16), a
last-bit difference before a rounding may move one code by one step: most rows agree all the same, none is far off.
"""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import Case, Shape, Texts, cases, make_program

from octavo.core.errors import ModelError
from octavo.kernels import native
from octavo.kernels.weight import HALVES, Layout
from octavo.program.cpu import Cpu
from octavo.program.reference import Reference

CASES = {case.name: case for case in cases()}
REFUSED = {name for name in CASES if name.startswith(("exact/", "attention/6-2-16", "attention/2-2-80"))}
TAKEN = sorted(set(CASES) - REFUSED)


def rounds(case: Case) -> bool:
    """Whether anything in the case is rounded to fewer bits than float32."""
    forms = {getattr(op, name).bits for op in case.program.ops for name in ("act", "act_out") if hasattr(op, name)}
    return case.program.kv.dtype != "float32" or forms != {32}


def all_logits(executor: Reference | Cpu, case: Case) -> np.ndarray:
    """The wanted rows of all the case's steps. [rows, vocab]"""
    executor.allocate(case.pages)
    try:
        return np.concatenate([executor.logits(batch) for batch in case.batches])
    finally:
        executor.close()


@pytest.mark.parametrize("name", TAKEN)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    case = CASES[name]
    want = all_logits(Reference(case.program), case)
    size = np.abs(want).max()
    for isa in native.isas():
        got = all_logits(Cpu(case.program, 1, max_tokens=192, isa=isa), case)
        error = np.abs(got - want)
        if rounds(case):
            assert np.median(error) < 0.01 * size, isa
            assert error.max() < 0.1 * size, isa
        else:
            assert error.max() < 4e-6 * size, isa


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize(
    "name", [*(f"whole/{layout.name}" for layout in Layout), *(f"groups/{layout.name}/16" for layout in HALVES)]
)
def test_a_row_is_the_same_bits_whatever_runs_beside_it(name: str, isa: str) -> None:
    case = CASES[name]
    rows: dict[tuple[int, int], np.ndarray] = {}  # by (slot, position)
    for threads, max_tokens in ((1, 192), (2, 64), (3, 64)):
        executor = Cpu(case.program, threads, max_tokens=max_tokens, isa=isa)
        executor.allocate(case.pages)
        for batch in case.batches:
            logits = executor.logits(batch)
            slots = np.repeat(batch.slots, np.diff(batch.starts))[batch.head.rows]
            for slot, position, row in zip(slots, batch.positions[batch.head.rows], logits, strict=True):
                first = rows.setdefault((int(slot), int(position)), row)
                assert np.array_equal(first.view(np.uint32), row.view(np.uint32))
        executor.close()


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_attention_is_the_same_bits_however_its_work_is_cut(dtype: str, isa: str) -> None:
    """1100 tokens at once, in many rows an item; then row by row, their keys split, beside texts of other lengths."""
    rng = np.random.default_rng(8)
    program = make_program(rng, Shape(heads=6, kv_heads=2, kv_dtype=dtype), "a", max_len=1120)
    texts = Texts.random(rng, (1100, 300, 20))
    whole = [(0, 0, 1100), (1, 0, 300), (2, 0, 20)]
    cut = [
        [(0, 0, 505), (2, 0, 1)],
        [(0, 505, 1), (1, 0, 200)],
        [(0, 506, 584), (1, 200, 13), (2, 1, 1)],
        *([(0, 1090 + i, 1), (1, 213 + i, 1), (2, 2 + i, 1)] for i in range(10)),
    ]
    rows: dict[tuple[int, int], np.ndarray] = {}  # by (slot, position)
    for threads, steps in ((2, [[run] for run in whole]), (1, [whole]), (1, cut), (3, cut)):
        executor = Cpu(program, threads, max_tokens=1420, isa=isa)
        executor.allocate(texts.pages)
        for runs in steps:
            batch = texts.batch(rng, runs, more=1)
            slots = np.repeat(batch.slots, np.diff(batch.starts))
            for slot, position, row in zip(slots, batch.positions, executor.logits(batch), strict=True):
                first = rows.setdefault((int(slot), int(position)), row)
                assert np.array_equal(first.view(np.uint32), row.view(np.uint32)), (slot, position)
        executor.close()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_kernels_do_not_take_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"cpu executor takes|cannot read inputs"):
        Cpu(CASES[name].program, 1)


def test_stale_memory_never_leaks_into_an_answer() -> None:
    """Pages full of NaN: only places that were written may count."""
    for name in ("whole/W4M", "attention/long/bfloat16", "attention/long/float32", "attention/shared-prefix/bfloat16"):
        case = CASES[name]
        clean, dirty = Cpu(case.program, 2, max_tokens=192), Cpu(case.program, 2, max_tokens=192)
        clean.allocate(case.pages)
        dirty.allocate(case.pages)
        assert dirty.store is not None
        dirty.store.data.fill(0xFF)
        for batch in case.batches:
            assert np.array_equal(clean.logits(batch), dirty.logits(batch))
        clean.close()
        dirty.close()


def test_a_run_beyond_the_largest_step_is_a_fault() -> None:
    case = CASES["whole/F32"]
    executor = Cpu(case.program, 1, max_tokens=8)
    executor.allocate(case.pages)
    with pytest.raises(AssertionError, match="tokens in a step made for 8"):
        executor.run(case.batches[0])
    executor.close()
