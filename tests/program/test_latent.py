"""Latent attention: the native kernels against the reference, and the reference against heads of keys of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from latent_cases import Attention, latents, program
from op_cases import Texts
from parity import every_instruction_set_agrees, same_bits_however_cut, stale_pages_do_not_count

from octavo.bench.cases import Shape
from octavo.core.errors import ModelError
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight
from octavo.program.cost import by_kind, costs
from octavo.program.cpu import Cpu
from octavo.program.equations import normed, rotate
from octavo.program.ops import Attend, Latent, LatentQuery, Op, PerHead
from octavo.program.reference import Reference, Registers

CASES = {case.name: case for case in latents()}


@pytest.mark.parametrize("name", CASES)
def test_every_instruction_set_computes_what_the_reference_does(name: str) -> None:
    every_instruction_set_agrees(CASES[name])


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [Layout.F32, Layout.BF16, Layout.W8, Layout.W4M])
def test_a_row_is_the_same_bits_however_cut(layout: Layout, dtype: str, isa: str) -> None:
    shape = Shape(layout, heads=4, kv_dtype=dtype)
    made = program(np.random.default_rng(8), Attention(shape, narrow=96, up=Shape(layout)), max_len=1120)
    same_bits_however_cut(made, isa)


def test_stale_memory_never_leaks_into_an_answer() -> None:
    """Pages full of NaN: of values only the first places are written, and read."""
    for name in ("latent/long/float32", "latent/long/bfloat16", "latent/W4M/narrow/bfloat16"):
        stale_pages_do_not_count(CASES[name])


def test_it_is_attention_to_keys_and_values_of_each_head() -> None:
    """As the paper defines it: k_i = (U_i^T c, rope(r)), v_i = W_i c, of every token and head."""
    rng, a = np.random.default_rng(3), Attention(Shape(heads=3), narrow=40)
    made, tokens = program(rng, a), 45
    texts = Texts.random(rng, (tokens,))
    batch = texts.batch(rng, [(0, 0, tokens)], more=1)
    _, _, latent, query, attend, per_head, *_ = made.ops
    assert isinstance(latent, Latent) and isinstance(query, LatentQuery) and latent.narrow is not None
    assert isinstance(attend, Attend) and isinstance(per_head, PerHead)
    h = rng.normal(0, 1, (tokens, made.width)).astype(np.float32)
    z = h @ latent.weight.dequantize().T
    c, r = normed(z[:, : a.rank], latent.norm), rotate(z[:, None, a.rank :], latent.rope, batch.positions)[:, 0]
    narrow = normed(h @ latent.narrow.dequantize().T, latent.narrow_norm)
    q = (narrow @ query.weight.dequantize().T).reshape(tokens, 3, -1)
    turned = rotate(q[:, :, a.plain :], query.rope, batch.positions)
    up, down = (weight.dequantize().reshape(3, -1, weight.cols) for weight in (query.up, per_head.weight))
    wanted = []
    for head in range(3):
        scores = q[:, head, : a.plain] @ (c @ up[head]).T + turned[:, head] @ r.T
        scores = np.where(np.tri(tokens, dtype=bool), attend.scale * scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        wanted.append(weights / weights.sum(axis=1, keepdims=True) @ (c @ down[head].T))
    executor = Reference(made)
    executor.allocate(texts.pages)
    registers = Registers(h=[h, h])
    for op in made.ops[2:6]:
        executor.step(op, registers, batch)
    np.testing.assert_allclose(registers.h[1], np.concatenate(wanted, axis=1), atol=2e-5)


def changed(kind: type, **fields: object) -> list[Op]:
    """The ops of a program, one of them changed."""
    made = program(np.random.default_rng(0), Attention(narrow=96))
    return [dataclasses.replace(op, **fields) if isinstance(op, kind) else op for op in made.ops]  # type: ignore[type-var]


def zeros(rows: int, cols: int) -> Weight:
    return Weight.float32(np.zeros((rows, cols), np.float32))


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (changed(Latent, rank=50), "50 of 96 places, 1 key heads"),
        (changed(Latent, rank=128), "128 of 96 places"),
        (changed(Latent, weight=zeros(64, 64)), "Latent: a matrix of 64 x 64 where one of 96 rows"),
        (changed(Latent, out=0), r"Latent: reads and writes h\[0\]"),
        (changed(Latent, narrow=None), "LatentQuery: reads its input as .* but it was written as None"),
        (changed(Latent, narrow_bias=np.zeros(3, np.float32)), "narrow bias: 3 numbers where 96"),
        (changed(LatentQuery, up=zeros(192, 40)), "LatentQuery: a matrix of 192 x 96 where one of 216"),
        (
            changed(LatentQuery, up=zeros(64, 32)),
            "up: a matrix of 64 x 32 where one of 192 rows and a multiple of 32",
        ),
        (changed(LatentQuery, source=0), "LatentQuery: a matrix of 192 x 96 reads an input of 64"),
        (changed(Attend, apart=False), "PerHead: reads 3 rows of a token, but 1 were written"),
        (changed(PerHead, weight=zeros(60, 64)), "PerHead: 60 outputs of 3 heads"),
        (changed(PerHead, out=0), r"PerHead: reads and writes h\[0\]"),
    ],
)
def test_what_does_not_fit_is_refused(ops: list[Op], message: str) -> None:
    made = dataclasses.replace(program(np.random.default_rng(0), Attention(narrow=96)), ops=tuple(ops))
    with pytest.raises(ModelError, match=message):
        Cpu(made, 1)


def test_more_than_one_key_head_is_refused() -> None:
    made = program(np.random.default_rng(0), Attention(Shape(heads=4)))
    with pytest.raises(ModelError, match="96 places, 2 key heads"):
        Cpu(dataclasses.replace(made, kv=KvLayout(1, 2, 96, "float32")), 1)


def test_cost_counts_what_a_step_reads_and_multiplies() -> None:
    a = Attention(narrow=96)
    made = program(np.random.default_rng(0), a)
    texts = Texts.random(np.random.default_rng(0), (40,))
    found = by_kind(made, costs(made, texts.batch(np.random.default_rng(0), [(0, 0, 40)])))
    assert list(found) == ["embed", "norm", "latent", "latent_query", "attend", "per_head", "proj(o)", "head", "draw"]
    assert found["latent"].written == 40 * made.kv.token_bytes == 40 * 2 * 96 * 4
    assert found["latent"].fp32 == 40 * (2 * 64 * (96 + 96) + 4 * (64 + 96))
    assert found["latent_query"].fp32 == 40 * 2 * 3 * (96 * 64 + 32 * 64)
    assert found["attend"].fp32 == 2 * 3 * (40 * 41 // 2) * (96 + 64)
    assert found["per_head"].fp32 == 40 * 2 * 3 * 64 * 64
