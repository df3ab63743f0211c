"""The cases of `octavo bench kernels`: what they walk through, and that their figures follow from times and counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from octavo.bench import kernels
from octavo.bench.cases import FORMS, Form, Shape, make_program
from octavo.bench.steps import step
from octavo.kernels import native
from octavo.kernels.weight import Layout
from octavo.program.cost import Cost
from octavo.program.cpu import Cpu
from octavo.program.ops import Attend, Qkv

SIZE = 3 << 20
FEW = (Form(Layout.BF16), Form(Layout.W8), Form(Layout.W4M, 128))


def test_names_are_unique_and_cover_what_is_promised():
    names = [f"{group.name} {name}" for group in kernels.groups(SIZE) for name in group.steps]
    assert len(set(names)) == len(names)
    for form in FORMS:
        for rows in (1, 2, 4, 8, 16, 64, 192):
            assert f"projections {form.name} cached rows {rows}" in names
        assert f"projections {form.name} memory rows 1" in names
    for context in (512, 1024, 2048, 4096, 8192):
        assert f"attention 9-3-64 decode 1 at {context}" in names
    assert "attention 32-8-64 prefill 2048" in names and "head W4M/32 rows 64 top-p" in names


@pytest.mark.parametrize("form", FEW, ids=lambda form: form.name)
def test_layers_in_memory_have_weights_of_their_own(form):
    cached, memory = kernels.layers(form, 0), kernels.layers(form, 40 << 20)

    def places(program):
        return [weight.data.ctypes.data for op in program.ops[1:-1] for weight in kernels.weights_of(op).values()]

    matrices = 7  # q k v o gate up down
    assert len(places(cached)) == matrices * kernels.CACHED_LAYERS and len(set(places(cached))) == matrices
    assert len(set(places(memory))) == len(places(memory)) and len(places(memory)) % matrices == 0
    held = {weight.data.ctypes.data: weight for op in memory.ops[1:-1] for weight in kernels.weights_of(op).values()}
    assert 40 << 20 <= sum(weight.nbytes for weight in held.values()) < 80 << 20
    first, second = [op for op in memory.ops if isinstance(op, Qkv)][:2]
    assert np.array_equal(first.q.data, second.q.data) and first.layer == 0 and second.layer == 1


def test_a_repeated_layer_computes_what_the_layers_it_copies_do():
    shape = Shape(Layout.W4, kv_dtype="bfloat16")
    whole = make_program(np.random.default_rng(3), shape, "af")
    shared, own = (kernels.repeated(whole, 3, copies=copies) for copies in (False, True))
    assert [op.layer for op in own.ops if isinstance(op, Attend)] == [0, 1, 2] and own.kv.layers == 3
    drawn = []
    for program in (shared, own):
        executor = Cpu(program, 1, max_tokens=64)
        executor.allocate(2)
        drawn.append(executor.logits(step([(0, 40)], 211)))
        executor.close()
    assert np.array_equal(drawn[0], drawn[1])


def test_pages_of_attention_take_the_size_asked_for():
    program = kernels.attention((9, 3, 64), 512, SIZE)
    layer = 512 * 3 * 64 * 2 * 2
    assert program.kv.layers == -(-SIZE // layer)
    assert kernels.attention((9, 3, 64), 512, 0).kv.layers == 1


@pytest.mark.parametrize("layout", [Layout.BF16, Layout.W8])
def test_a_head_of_repeated_panels_is_whole(layout):
    like = Shape(width=64, vocab=2100)
    program = kernels.head(Form(layout, 32 if layout is Layout.W8 else 0), like)
    weight = program.ops[-1].weight
    dense = weight.dequantize()
    assert dense.shape == (2100, 64) and np.array_equal(dense[1024:2048], dense[:1024])
    executor = Cpu(program, 1, max_tokens=4)
    executor.allocate(1)
    logits = executor.logits(step([(0, 1)], 64))
    executor.close()
    assert logits.shape == (1, 2100) and np.array_equal(logits[0, 1024:2048], logits[0, :1024])


def test_measured_cases_hold_time_and_cost_of_all_their_ops(monkeypatch):
    small = dataclasses.replace(kernels.LAYER, width=128, heads=2, kv_heads=1, inner=256)
    monkeypatch.setattr(kernels, "LAYER", small)
    group = next(group for group in kernels.groups(SIZE) if group.name == "projections W4/32 cached")
    group = group.only("rows 4")
    assert list(group.steps) == ["rows 4"]
    (found,) = kernels.measure(group, 1, native.isas()[0], 1e-9)
    assert [one.kind for one in found] == list(kernels.PROJECTIONS)
    assert all(one.seconds > 0 and one.about["steps"] == kernels.LEAST_STEPS for one in found)
    by_kind = {one.kind: one for one in found}
    assert by_kind["norm"].about["ops"] == 8 and by_kind["qkv"].about["ops"] == 4
    panel = 128 // 32 * (64 + 32 * 16)
    assert by_kind["proj(o)"].cost == Cost(read=4 * 4 * panel, int8=4 * 2 * 4 * 128 * 128)
