"""The native executor against the reference, every instruction set of this machine, op by op and whole.

Where nothing is rounded on the way, results agree to float32. Where activations are rounded (int8, bfloat16), a
last-bit difference before a rounding may move one code by one step: most rows agree all the same, none is far off.
"""

from __future__ import annotations

import numpy as np
import pytest
from feature_cases import EVERYTHING, changed, features, fields
from op_cases import Shape, Texts, cases, make_program
from parity import every_instruction_set_agrees, same_bits_however_cut, stale_pages_do_not_count

from octavo.core.errors import ModelError
from octavo.kernels import native
from octavo.kernels.weight import HALVES, Layout
from octavo.program.cpu import Cpu
from octavo.program.ops import Attend

CASES = {case.name: case for case in [*cases(), *features()]}
REFUSED = {name for name in CASES if name.startswith(("exact/", "attention/6-2-16", "attention/2-2-80"))}
TAKEN = sorted(set(CASES) - REFUSED)


@pytest.mark.parametrize("name", TAKEN)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    every_instruction_set_agrees(CASES[name])


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize(
    "name",
    [
        *(f"{kind}/{layout.name}" for kind in ("whole", "everything") for layout in Layout),
        *(f"groups/{layout.name}/16" for layout in HALVES),
        "order/W4M",
    ],
)
def test_a_row_is_the_same_bits_whatever_runs_beside_it(name: str, isa: str) -> None:
    case = CASES[name]
    rows: dict[tuple[int, int], np.ndarray] = {}  # by (slot, position)
    for threads, max_tokens in ((1, 192), (2, 160), (3, 160)):
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
    shape = Shape(heads=6, kv_heads=2, kv_dtype=dtype)
    same_bits_however_cut(make_program(np.random.default_rng(8), shape, "a", max_len=1120), isa)


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("window", [70, 600])
def test_windows_caps_slopes_sinks_and_norms_are_the_same_bits_however_cut(window: int, dtype: str, isa: str) -> None:
    """A window within a block of 512 keys, which lies across two for some rows, and one over up to three."""
    shape = Shape(heads=6, kv_heads=2, kv_dtype=dtype, layers=2)
    sight = fields(Attend, window=window)
    _, program = changed(f"cut/{window}/{dtype}", shape, "af", *EVERYTHING, sight, max_len=1120)
    same_bits_however_cut(program, isa)


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_pages_before_a_window_are_not_read(dtype: str, isa: str) -> None:
    """They are another's by then: their places in the table, and what they hold, mean nothing."""
    shape, window, length = Shape(heads=6, kv_heads=2, kv_dtype=dtype), 70, 700
    rng, program = changed(f"behind/{dtype}", shape, "a", fields(Attend, window=window), max_len=length)
    texts = Texts.random(rng, (length,))
    wanted: list[np.ndarray] = []
    for given_back in (False, True):
        executor = Cpu(program, 2, max_tokens=length, isa=isa)
        executor.allocate(texts.pages)
        executor.logits(texts.batch(rng, [(0, 0, 640)]))
        assert executor.store is not None
        pages = executor.store.data.reshape(texts.pages, -1)  # of the one layer
        gone = texts.tables[0, : (640 - window + 1) // 32]
        if given_back:
            pages[gone] = 0xFF
        batches = [
            texts.batch(rng, [(0, 640, 58)], more=1),
            texts.batch(rng, [(0, 698, 1)]),
            texts.batch(rng, [(0, 699, 1)]),
        ]
        found = np.concatenate([executor.logits(batch) for batch in batches])
        assert np.isfinite(found).all()
        wanted.append(found)
        if given_back:  # and what a window does reach is read
            pages[texts.tables[0, 700 // 32 - 1]] = 0xFF
            assert not np.isfinite(executor.logits(batches[-1])).all()
        executor.close()
    assert np.array_equal(*wanted)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_kernels_do_not_take_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"cpu executor takes|cannot read inputs"):
        Cpu(CASES[name].program, 1)


def test_stale_memory_never_leaks_into_an_answer() -> None:
    """Pages full of NaN: only places that were written may count."""
    for name in (
        "whole/W4M",
        "everything/W8",
        "ahead/long/bfloat16",
        "attention/long/bfloat16",
        "attention/long/float32",
        "attention/shared-prefix/bfloat16",
    ):
        stale_pages_do_not_count(CASES[name])


def test_a_run_beyond_the_largest_step_is_a_fault() -> None:
    case = CASES["whole/F32"]
    executor = Cpu(case.program, 1, max_tokens=8)
    executor.allocate(case.pages)
    with pytest.raises(AssertionError, match="tokens in a step made for 8"):
        executor.run(case.batches[0])
    executor.close()
