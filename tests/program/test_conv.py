"""Short convolutions: the native kernel against the reference, and the reference against the sum it stands for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conv_cases import Short, convolutions, program
from op_cases import Texts
from parity import every_instruction_set_agrees, same_bits_however_cut, stale_pages_do_not_count

from octavo.bench.cases import Shape
from octavo.core.errors import ModelError
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight, from_bfloat16, to_bfloat16
from octavo.program.cost import by_kind, costs
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, Conv, Op
from octavo.program.reference import Reference, Registers

CASES = {case.name: case for case in convolutions()}
PLACES = Shape(width=160, heads=2, kv_heads=1, head_dim=32, bias=True, layers=2)


@pytest.mark.parametrize("name", CASES)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    every_instruction_set_agrees(CASES[name])


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [Layout.F32, Layout.BF16, Layout.W8, Layout.W4M])
def test_a_row_is_the_same_bits_however_cut(layout: Layout, dtype: str, isa: str) -> None:
    shape = dataclasses.replace(PLACES, layout=layout, kv_dtype=dtype)
    same_bits_however_cut(program(np.random.default_rng(8), Short(shape, 4), max_len=1120), isa)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_a_gated_sum_over_the_last_tokens(dtype: str) -> None:
    """Token by token, in float64 but for what is rounded: u of every token, as the pages hold it."""
    rng, tokens = np.random.default_rng(3), 45
    made = program(rng, Short(dataclasses.replace(PLACES, kv_dtype=dtype), 4))
    texts = Texts.random(rng, (tokens,))
    conv = made.ops[2]
    assert isinstance(conv, Conv) and conv.bias is not None
    h = rng.normal(0, 1, (tokens, made.width)).astype(np.float32)
    b, c, z = (
        h @ weight.dequantize().T + bias
        for weight, bias in ((conv.b, conv.b_bias), (conv.c, conv.c_bias), (conv.z, conv.z_bias))
    )
    u = b * z
    low = high = u  # between these lies what the pages hold: a sum near a tie goes up on one machine, down on another
    if dtype == "bfloat16":
        low, high = (from_bfloat16(to_bfloat16(u * np.float32(1 + by))) for by in (-1e-6, 1e-6))
    wanted, slack = np.empty((tokens, made.width)), np.empty((tokens, made.width))
    for t in range(tokens):
        seen = [(j, t - 3 + j) for j in range(4) if t - 3 + j >= 0]
        wanted[t] = c[t] * (conv.bias + sum(conv.taps[j].astype(np.float64) * low[at] for j, at in seen))
        slack[t] = np.abs(c[t]) * sum(np.abs(conv.taps[j] * (high[at] - low[at])) for j, at in seen)
    executor = Reference(made)
    executor.allocate(texts.pages)
    for first, count in ((0, 1), (1, 31), (32, 1), (33, 12)):
        registers = Registers(h=[h[first : first + count], h[:0]])
        executor.step(conv, registers, texts.batch(rng, [(0, first, count)]))
        part = slice(first, first + count)
        assert (np.abs(registers.h[1] - wanted[part]) <= 2e-5 + slack[part]).all()
    assert np.count_nonzero(slack) < slack.size / 50


@pytest.mark.parametrize(
    "name", ["conv/long/float32", "conv/long/bfloat16", "conv/odd/bfloat16", "conv/taps/40/float32"]
)
def test_stale_memory_never_leaks_into_an_answer(name: str) -> None:
    """Pages full of NaN: only what was written counts, and nothing before a text."""
    stale_pages_do_not_count(CASES[name])


@pytest.mark.parametrize("isa", native.isas())
def test_pages_before_the_taps_are_not_read(isa: str) -> None:
    """They are another's by then; and the one that the taps reach is."""
    rng = np.random.default_rng(4)
    made, texts = program(rng, Short(PLACES, 3)), Texts.random(rng, (70,))
    executor = Cpu(made, 1, isa=isa)
    executor.allocate(texts.pages)
    executor.logits(texts.batch(rng, [(0, 0, 65)]))
    assert executor.store is not None
    pages = executor.store.data.reshape(made.kv.layers, texts.pages, -1)
    batch = texts.batch(rng, [(0, 65, 1)])  # sees 63, 64 and 65
    pages[:, texts.tables[0, 0]] = 0xFF
    assert np.isfinite(executor.logits(batch)).all()
    pages[:, texts.tables[0, 1]] = 0xFF
    assert not np.isfinite(executor.logits(batch)).all()
    executor.close()


def changed(**fields: object) -> list[Op]:
    """The ops of a program, its convolutions changed."""
    made = program(np.random.default_rng(0), Short(PLACES))
    return [dataclasses.replace(op, **fields) if isinstance(op, Conv) else op for op in made.ops]  # type: ignore[arg-type]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"c": Weight.float32(zeros(96, 160))}, "Conv: a matrix of 96 x 160 where one of 160 rows"),
        ({"z": Weight.float32(zeros(160, 96))}, "Conv: a matrix of 160 x 96 reads an input of 160"),
        ({"z_bias": zeros(3)}, "Conv: bias: 3 numbers where 160"),
        ({"bias": zeros(3)}, "Conv: bias: 3 numbers where 160"),
        ({"taps": zeros(3, 96)}, "Conv: taps: 288 numbers where 480"),
        ({"taps": zeros(0, 160)}, r"Conv: taps of \[0, 160\]; they are rows of 160, one or more"),
        ({"taps": zeros(480)}, r"Conv: taps of \[480\]"),
        ({"out": 0}, r"Conv: reads and writes h\[0\]"),
        ({"source": 1, "out": 0}, "Conv: reads its input as .* but it was written as None"),
        ({"act": Act(16)}, "Conv: reads its input as"),
        ({"layer": 4}, "Conv: takes 3 places from place 4 on, of 6"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], message: str) -> None:
    made = dataclasses.replace(program(np.random.default_rng(0), Short(PLACES)), ops=tuple(changed(**fields)))
    with pytest.raises(ModelError, match=message):
        Cpu(made, 1)


def test_cost_counts_what_a_step_reads_writes_and_multiplies() -> None:
    rng = np.random.default_rng(0)
    made = program(rng, Short(dataclasses.replace(PLACES, layers=1, kv_dtype="bfloat16"), 3))
    texts = Texts.random(rng, (40, 9, 30))
    found = by_kind(made, costs(made, texts.batch(rng, [(0, 0, 5), (1, 1, 1), (2, 20, 2)])))
    assert list(found) == ["embed", "norm", "conv", "proj(o)", "head", "draw"]
    assert found["conv"].written == 8 * 160 * 2
    assert found["conv"].read == 3 * 160 * 160 * 4 + (0 + 1 + 2) * 160 * 2
    assert found["conv"].fp32 == 8 * (3 * 2 * 160 * 160 + 160 * (2 + 2 * 3))
