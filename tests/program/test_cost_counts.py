"""Bytes and operations of a step against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from feature_cases import fields, head_norms, norms, placed, positions, post, renorm, ungated

from octavo.bench.cases import Shape, make_program
from octavo.bench.steps import StepShape, step
from octavo.kernels.weight import Layout
from octavo.program.cost import EXPERTS, KINDS, LATENT, Cost, by_kind, costs, kinds
from octavo.program.cpu import Cpu
from octavo.program.ops import Attend, Proj

# 2 layers; width 64, 4 heads of 32 over 2 key heads, inner 96, vocabulary 224; int4 in groups of 32: a panel of 64
# inputs is 2 * (64 + 32 * 16) = 1152 bytes, of 128 twice that, of 96 three halves of it.
SHAPE = Shape(Layout.W4, layers=2, vocab=224, kv_dtype="bfloat16")
PANEL64, RATES = 1152, {"read_gb_s": 10.0, "int8_gop_s": 1000.0, "bf16_gflop_s": 200.0, "fp32_gflop_s": 100.0}
RATES |= {"int16_gop_s": 400.0}


def counted(prompt: int = 0, batch: int = 0, context: int = 0, shape: Shape = SHAPE) -> dict[str, Cost]:
    program = make_program(np.random.default_rng(0), shape, "eafh")
    return by_kind(program, costs(program, step(StepShape(prompt, batch, context).runs, 224)))


def test_decoding_three_sequences_by_hand():
    found = counted(batch=3, context=100)
    assert found == {
        "embed": Cost(read=3 * PANEL64 // 32, fp32=3 * 64),
        "norm": Cost(fp32=4 * 4 * 3 * 64),
        # 128 + 64 + 64 rows: 8 panels a layer; keys and values of 2 * 2 * 32 numbers of 2 bytes
        "qkv": Cost(read=2 * 8 * PANEL64, written=2 * 3 * 256, int8=2 * 2 * 3 * 256 * 64),
        # 101 keys each; two products of 4 * 32 numbers with each
        "attend": Cost(read=2 * 3 * 101 * 256, bf16=2 * 3 * 101 * 2 * 2 * 128),
        "proj(o)": Cost(read=2 * 2 * 2 * PANEL64, int8=2 * 2 * 3 * 64 * 128),
        "ffn_in": Cost(read=2 * 2 * 3 * PANEL64, int8=2 * 2 * 3 * 192 * 64),
        "proj(down)": Cost(read=2 * 2 * PANEL64 * 3 // 2, int8=2 * 2 * 3 * 64 * 96),
        "head": Cost(read=7 * PANEL64, int8=2 * 3 * 224 * 64, fp32=4 * 3 * 64),
        "draw": Cost(fp32=3 * 224),
    }
    assert tuple(found) == tuple(kind for kind in KINDS if kind not in ("conv", *EXPERTS, *LATENT))


def test_prefill_sees_each_position_s_own_past():
    found = counted(prompt=10)
    assert found["attend"] == Cost(read=2 * 10 * 256, bf16=2 * (10 * 11 // 2) * 512)
    assert found["qkv"] == Cost(read=2 * 8 * PANEL64, written=2 * 10 * 256, int8=2 * 2 * 10 * 256 * 64)
    assert found["head"].int8 == 2 * 224 * 64, "one row is drawn from"


def test_a_mixed_step_reads_its_weights_once():
    mixed, prompt, decode = counted(10, 3, 100), counted(prompt=10), counted(batch=3, context=100)
    for kind in decode:
        together = prompt[kind] + decode[kind]
        assert (mixed[kind].int8, mixed[kind].bf16, mixed[kind].written) == (
            together.int8,
            together.bf16,
            together.written,
        )
    for kind in ("qkv", "proj(o)", "ffn_in", "proj(down)", "head"):
        assert mixed[kind].read == prompt[kind].read == decode[kind].read
    assert mixed["attend"].read == prompt["attend"].read + decode["attend"].read


@pytest.mark.parametrize(("layout", "form"), [(Layout.F32, "fp32"), (Layout.BF16, "bf16"), (Layout.W8, "int8")])
def test_operations_are_of_the_form_that_is_read(layout, form):
    found = counted(batch=1, shape=Shape(layout, kv_dtype="float32"))
    assert found["ffn_in"].operations == getattr(found["ffn_in"], form) == 2 * 192 * 64
    assert found["attend"] == Cost(read=512, fp32=512)


def changed(prompt: int, *changes, parts: str = "af", shape: Shape = SHAPE) -> dict[str, Cost]:
    """Costs of a prompt for a program with some changes."""
    rng = np.random.default_rng(0)
    program = make_program(rng, shape, parts)
    for change in changes:
        program = change(rng, program)
    return by_kind(program, costs(program, step(StepShape(prompt, 0, 0).runs, 224)))


def test_windows_and_sight_ahead_by_hand():
    """Ten tokens of 4 heads of 32, two layers: keys and values of 256 bytes a token and layer."""
    key = 2 * 2 * 2 * 128  # operations
    windowed = changed(10, fields(Attend, window=4))["attend"]
    assert windowed == Cost(read=2 * 10 * 256, bf16=(1 + 2 + 3 + 7 * 4) * key)
    assert changed(10, fields(Attend, causal=False))["attend"] == Cost(read=2 * 10 * 256, bf16=10 * 10 * key)
    both = changed(10, fields(Attend, causal=False, window=3))["attend"]
    assert both == Cost(read=2 * 10 * 256, bf16=(3 + 4 + 6 * 5 + 4 + 3) * key)


def test_decoding_reads_what_a_window_reaches():
    program = fields(Attend, window=40)(None, make_program(np.random.default_rng(0), SHAPE, "a"))
    found = by_kind(program, costs(program, step([(100, 1), (10, 1)], 224)))["attend"]
    assert found == Cost(read=2 * (40 + 11) * 256, bf16=2 * (40 + 11) * 512)


def test_added_norms_scales_and_positions_count_by_element():
    plain, element = changed(10), 2 * 10 * 64
    normed = changed(10, post("rms"))
    for kind in ("proj(o)", "proj(down)"):
        assert normed[kind].fp32 == plain[kind].fp32 + 4 * element
        assert changed(10, fields(Proj, scale=0.5))[kind].fp32 == plain[kind].fp32 + element
    assert changed(10, head_norms("rms"))["qkv"].fp32 == plain["qkv"].fp32 + 4 * 2 * 10 * (4 + 2) * 32
    assert changed(10, positions)["embed"] == plain["embed"] + Cost(read=10 * 64 * 4, fp32=10 * 64)
    assert changed(10, norms("none"))["norm"] == Cost()
    assert changed(10, ungated)["ffn_in"].int8 == plain["ffn_in"].int8 // 2
    renormed = changed(10, renorm)["norm"].fp32
    assert renormed == plain["norm"].fp32 + 4 * 10 * 64 * (1 + 2 * 2)


def test_places_without_a_dim_are_moved_and_not_computed():
    shape = Shape(Layout.F32, head_dim=32, kv_dtype="bfloat16")
    whole, part = changed(10, parts="a", shape=shape), changed(10, placed(24), parts="a", shape=shape)
    assert part["qkv"].moved == whole["qkv"].moved and part["attend"].moved == whole["attend"].moved
    assert part["qkv"].fp32 == whole["qkv"].fp32 * 24 // 32
    assert part["attend"].bf16 == whole["attend"].bf16 * 24 // 32


def test_nothing_is_wanted_and_the_head_costs_nothing():
    program = make_program(np.random.default_rng(0), SHAPE, "eafh")
    batch = step([(0, 5)], 224)
    object.__setattr__(batch.head, "rows", batch.head.rows[:0])
    found = by_kind(program, costs(program, batch))
    assert found["head"] == found["draw"] == Cost()


def test_limit_is_the_larger_of_moving_and_computing():
    assert Cost(read=15_000, written=5_000).limit(RATES) == pytest.approx(2e-6)
    assert Cost(read=1, int8=3_000_000, bf16=200_000, fp32=100_000).limit(RATES) == pytest.approx(5e-6)
    assert Cost().limit(RATES) == 0


def test_projections_are_told_apart_by_what_they_read():
    program = make_program(np.random.default_rng(0), Shape(layers=2), "af")
    layer = ["norm", "qkv", "attend", "proj(o)", "norm", "ffn_in", "proj(down)"]
    assert kinds(program) == ["embed", *layer, *layer, "head"]
    only = make_program(np.random.default_rng(0), Shape(), "f")
    assert list(by_kind(only, [Cost()] * 6)) == ["embed", "norm", "ffn_in", "proj(down)", "head", "draw"]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_executor_says_where_time_went(threads):
    program = make_program(np.random.default_rng(0), SHAPE, "eafh")
    batch = step([(0, 40), (7, 1)], 224)
    executor = Cpu(program, threads, max_tokens=64)
    executor.allocate(4)
    assert executor.times().runs == 0 and executor.times().total == 0
    for _ in range(5):
        executor.run(batch)
    times = executor.times()
    assert times.runs == 5 and len(times.ops) == len(program.ops)
    assert all(seconds > 0 for seconds in times.ops) and times.draw > 0
    assert sum(times.ops) + times.draw <= times.total
    again = executor.times()
    assert again.runs == 0 and again.total == again.draw == sum(again.ops) == 0
    executor.logits(batch)
    assert executor.times().runs == 1
    executor.close()


def test_a_step_is_spent_in_its_ops():
    """But for its list of work: of twenty steps at least one is not interrupted in between."""
    program = make_program(np.random.default_rng(0), SHAPE, "eafh")
    executor = Cpu(program, 1, max_tokens=256)
    executor.allocate(8)
    shares = []
    for _ in range(20):
        executor.run(step([(0, 256)], 224))
        times = executor.times()
        shares.append((sum(times.ops) + times.draw) / times.total)
    executor.close()
    assert max(shares) > 0.9
