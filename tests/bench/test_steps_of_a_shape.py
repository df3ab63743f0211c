"""Steps made for timing: what they hold, and that an executor takes them."""

from __future__ import annotations

import numpy as np
import op_cases
import pytest

from octavo.bench.cases import FORMS, HEADS, Shape, make_program
from octavo.bench.profile import REST, median_step, profile, rows, seconds_by_kind
from octavo.bench.steps import StepShape, pages, step
from octavo.core.errors import InvalidValue
from octavo.kernels import native
from octavo.kernels.weight import CODED, Layout
from octavo.program.cost import by_kind, costs
from octavo.program.cpu import Cpu
from octavo.program.reference import Reference

RATES = {"read_gb_s": 10.0, "int8_gop_s": 1000.0, "bf16_gflop_s": 200.0, "fp32_gflop_s": 100.0}
RATES |= {"int16_gop_s": 400.0}


def test_a_shape_names_its_runs():
    assert StepShape(512).name == "prefill 512" and StepShape(512).runs == [(0, 512)]
    assert StepShape(0, 2, 64).name == "decode 2 at 64" and StepShape(0, 2, 64).runs == [(64, 1), (64, 1)]
    assert StepShape(9, 1, 3).name == "prefill 9 + decode 1 at 3" and StepShape(9, 1, 3).runs == [(0, 9), (3, 1)]


def test_a_step_is_whole_and_its_sequences_share_nothing():
    runs = [(0, 40), (63, 1), (64, 1)]
    batch = step(runs, 100)
    assert batch.starts.tolist() == [0, 40, 41, 42] and batch.kv_lens.tolist() == [40, 64, 65]
    assert batch.positions.tolist() == [*range(40), 63, 64] and batch.head.rows.tolist() == [39, 40, 41]
    assert pages(runs) == 2 + 2 + 3
    held = [batch.tables[slot, :count].tolist() for slot, count in enumerate((2, 2, 3))]
    assert sorted(page for table in held for page in table) == list(range(7))
    assert batch.ids.min() >= 0 and batch.ids.max() < 100


def test_each_cache_group_has_pages_of_its_own():
    runs = [(0, 40), (64, 1)]
    tables = step(runs, 100, 3).tables.reshape(2, 3, 3)
    held = [*tables[0, :, :2].ravel().tolist(), *tables[1].ravel().tolist()]
    assert sorted(held) == list(range(15)) and pages(runs, 3) == 15


def test_executors_agree_on_it():
    program = make_program(np.random.default_rng(0), Shape(kv_dtype="float32"), "af")
    runs = [(0, 50), (0, 33)]
    drawn = []
    for executor in (Reference(program), Cpu(program, 1)):
        executor.allocate(pages(runs))
        drawn.append(executor.run(step(runs, 211)).tokens.tolist())
        executor.close()
    assert drawn[0] == drawn[1]


def test_what_is_timed_is_compared_with_the_reference():
    """Every form and number of heads that `octavo bench kernels` may time has its cases in the parity test."""
    names = {case.name for case in op_cases.cases()}
    for form in FORMS:
        assert (f"groups/{form.name}" if form.layout in CODED else f"whole/{form.name}") in names
    for heads in HEADS:
        assert "attention/{}-{}-{}/bfloat16".format(*heads) in names


def test_rows_of_a_profile_add_up_to_its_step():
    program = make_program(np.random.default_rng(0), Shape(Layout.W4M, layers=2, kv_dtype="bfloat16"), "eafh")
    batch = step(StepShape(20, 3, 40).runs, 211)
    executor = Cpu(program, 2, max_tokens=64)
    executor.allocate(7)
    times = median_step(executor, batch, 5)
    executor.close()
    assert times.runs == 1
    found = rows(program, batch, times, RATES)
    *parts, total = found
    assert [row.kind for row in parts] == [*by_kind(program, costs(program, batch)), REST]
    assert total.kind == "total" and total.seconds == times.total
    assert sum(row.seconds for row in parts) == pytest.approx(total.seconds)
    assert sum(row.cost.moved for row in parts) == total.cost.moved > 0
    assert all(row.seconds >= 0 for row in parts)
    head = next(row for row in parts if row.kind == "head").record()
    assert head["gb_s"] == pytest.approx(head["bytes_read"] / head["seconds"] / 1e9)
    assert head["gop_s"] == pytest.approx((head["int8_operations"] + head["fp32_operations"]) / head["seconds"] / 1e9)
    bytes_s, ops_s = head["bytes_read"] / 10e9, head["int8_operations"] / 1e12 + head["fp32_operations"] / 100e9
    assert head["limit_share"] == pytest.approx(max(bytes_s, ops_s) / head["seconds"])


def test_times_go_to_the_kind_of_their_op():
    program = make_program(np.random.default_rng(0), Shape(layers=2), "af")
    times = native.Times(1, tuple(float(2**i) for i in range(len(program.ops))), draw=0.5, total=2.0**20)
    spent = seconds_by_kind(program, times)
    assert spent["embed"] == 1 and spent["qkv"] == 2**2 + 2**9 and spent["proj(o)"] == 2**4 + 2**11
    assert spent["proj(down)"] == 2**7 + 2**14 and spent["norm"] == 2**1 + 2**5 + 2**8 + 2**12
    assert spent["draw"] == 0.5 and spent[REST] == 2.0**20 - 2**16 + 1 - 0.5


def test_a_step_that_does_not_fit_is_refused():
    program = make_program(np.random.default_rng(0), Shape(), "a")
    with pytest.raises(InvalidValue, match=r"^context: 9000 is not accepted; \d+ bytes of keys and values; 4096 are"):
        profile(program, StepShape(0, 1, 9000), threads=1, isa="portable", steps=1, memory_bytes=4096)
