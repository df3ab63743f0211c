"""What executors are compared by: the logits of a case, and the same bits however steps are cut."""

from __future__ import annotations

import numpy as np
from op_cases import Case, Texts

from octavo.kernels import native
from octavo.program.cpu import Cpu
from octavo.program.ops import Program
from octavo.program.reference import Reference

FORMS = ("act", "act_out", "act_up")  # of what operations read


def rounds(case: Case) -> bool:
    """Whether anything in the case is rounded to fewer bits than float32."""
    forms = {getattr(op, name).bits for op in case.program.ops for name in FORMS if hasattr(op, name)}
    return case.program.kv.dtype != "float32" or forms != {32}


def all_logits(executor: Reference | Cpu, case: Case) -> np.ndarray:
    """The wanted rows of all the case's steps. [rows, vocab]"""
    executor.allocate(case.pages)
    try:
        return np.concatenate([executor.logits(batch) for batch in case.batches])
    finally:
        executor.close()


def every_instruction_set_agrees(case: Case) -> None:
    """The native executor computes what the reference does; where anything is rounded, most rows all the same."""
    want = all_logits(Reference(case.program), case)
    size = np.abs(want).max()
    for isa in native.isas():
        error = np.abs(all_logits(Cpu(case.program, 1, max_tokens=544, isa=isa), case) - want)
        if rounds(case):
            assert np.median(error) < 0.01 * size, isa
            assert error.max() < 0.1 * size, isa
        else:
            assert error.max() < 4e-6 * size, isa


def native_logits_agree(program: Program, isa: str) -> None:
    """The same of random texts of a program whose activations are rounded, in steps of 48 tokens."""
    rng = np.random.default_rng(0)
    texts = Texts.random(rng, (1, 33, 70))
    batches = list(texts.steps(rng, 48))
    found = []
    for executor in (Reference(program), Cpu(program, 2, max_tokens=48, isa=isa)):
        executor.allocate(texts.pages)
        found.append(np.concatenate([executor.logits(batch) for batch in batches]))
        executor.close()
    want, got = found
    error, size = np.abs(got - want), np.abs(want).max()
    assert np.median(error) < 0.01 * size and error.max() < 0.1 * size


def same_bits_however_cut(program: Program, isa: str) -> None:
    """1100 tokens at once, in many rows an item; then row by row, their keys split, beside texts of other lengths."""
    rng = np.random.default_rng(8)
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


def stale_pages_do_not_count(case: Case) -> None:
    """The same bits in pages full of NaN: only places that were written may count."""
    clean, dirty = (Cpu(case.program, 2, max_tokens=544) for _ in range(2))
    clean.allocate(case.pages)
    dirty.allocate(case.pages)
    assert dirty.store is not None
    dirty.store.data.fill(0xFF)
    for batch in case.batches:
        assert np.array_equal(clean.logits(batch), dirty.logits(batch))
    clean.close()
    dirty.close()
