"""Lowering: what operations a model becomes, in which form each reads its input, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from octavo.bench.cases import Shape, random_weight
from octavo.core.errors import InvalidValue, ModelError
from octavo.kernels.weight import HALVES, QUANTIZED, Layout, Weight
from octavo.models.lower import lower
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm, Rope
from octavo.program import ops
from octavo.program.ops import Act


def spec_of(*, width: int = 64, heads: int = 2, head_dim: int = 32, inner: int = 96, **parts: object) -> ModelSpec:
    """Two layers; `parts` are fields of Attn, or `bias`, or `tied`."""
    bias, tied = bool(parts.pop("bias", False)), bool(parts.pop("tied", True))
    attn = Attn(**({"heads": heads, "kv_heads": 1, "head_dim": head_dim, "rope": Rope()} | parts))
    attn = dataclasses.replace(attn, qkv_bias=bias, out_bias=bias)
    layer = Layer(attn, Mlp(inner, bias), Norm(1e-6))
    return ModelSpec(vocab=70, width=width, layers=(layer, layer), norm=Norm(1e-5), tied=tied, max_len=128)


def weights_of(spec: ModelSpec, layout: Layout = Layout.F32, group: int = 32) -> dict[str, Weight | np.ndarray]:
    """Random weights under the loader's names."""
    rng = np.random.default_rng(0)
    shape, plain = Shape(layout, group=group), Shape()

    def vector(size: int) -> np.ndarray:
        return rng.normal(size=size).astype(np.float32)

    out: dict[str, Weight | np.ndarray] = {"embed": random_weight(rng, plain, spec.vocab, spec.width)}
    out["norm"] = vector(spec.width)
    if not spec.tied:
        out["head"] = random_weight(rng, shape, spec.vocab, spec.width)
    for index, layer in enumerate(spec.layers):
        outputs, keys = layer.attn.heads * layer.attn.head_dim, layer.attn.kv_heads * layer.attn.head_dim
        width, inner = spec.width, layer.ffn.inner
        sizes = {"q": (outputs, width), "k": (keys, width), "v": (keys, width), "o": (width, outputs)}
        sizes |= {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
        for name, (rows, cols) in sizes.items():
            out[f"layers.{index}.{name}"] = random_weight(rng, shape, rows, cols)
            if layer.attn.qkv_bias:
                out[f"layers.{index}.{name}_bias"] = vector(rows)
        out |= {f"layers.{index}.{name}": vector(width) for name in ("attn_norm", "ffn_norm")}
    return out


def acts(spec: ModelSpec, layout: Layout, group: int = 32) -> list[Act]:
    """What the first layer's qkv, o, gate and down read."""
    program = lower(spec, weights_of(spec, layout, group), kv_dtype="bfloat16", max_len=8)
    _, _, qkv, attend, o, norm, ffn, down, *_ = program.ops
    assert (attend.act, norm.act, ffn.act_out) == (o.act, ffn.act, down.act)
    return [qkv.act, o.act, ffn.act, down.act]


def test_a_model_becomes_its_operations_in_order() -> None:
    spec = spec_of(bias=True, tied=False)
    weights = weights_of(spec)
    program = lower(spec, weights, kv_dtype="bfloat16", max_len=40)
    layer = [ops.Norm, ops.Qkv, ops.Attend, ops.Proj, ops.Norm, ops.FfnIn, ops.Proj]
    assert [type(op) for op in program.ops] == [ops.Embed, *layer, *layer, ops.Head]
    second = program.ops[8:15]
    assert [second[0].norm.weight, second[4].norm.weight] == [
        weights["layers.1.attn_norm"],
        weights["layers.1.ffn_norm"],
    ]
    assert [second[1].q, second[1].k_bias] == [weights["layers.1.q"], weights["layers.1.k_bias"]]
    assert [second[1].layer, second[2].layer, second[2].scale] == [1, 1, 32**-0.5]
    assert [second[3].weight, second[3].bias] == [weights["layers.1.o"], weights["layers.1.o_bias"]]
    assert [second[5].up, second[5].gate_bias] == [weights["layers.1.up"], weights["layers.1.gate_bias"]]
    assert [second[6].weight, second[6].bias] == [weights["layers.1.down"], weights["layers.1.down_bias"]]
    assert [program.ops[0].table, program.ops[-1].weight] == [weights["embed"], weights["head"]]
    assert [program.ops[-1].norm.weight, program.ops[-1].norm.eps, second[0].norm.eps] == [weights["norm"], 1e-5, 1e-6]
    assert (program.kv.layers, program.kv.kv_heads, program.kv.head_dim, program.kv.dtype) == (2, 1, 32, "bfloat16")
    assert (program.width, program.heads, program.vocab, program.max_len) == (64, 2, 70, 40)
    assert program.weight_bytes == sum(weight.nbytes for weight in weights.values())


def test_tied_models_share_one_table_and_biasless_ones_have_none() -> None:
    spec = spec_of(scale=0.25)
    program = lower(spec, weights_of(spec), kv_dtype="float32", max_len=8)
    assert program.ops[0].table is program.ops[-1].weight
    assert program.ops[2].q_bias is program.ops[4].bias is program.ops[6].up_bias is None
    assert program.ops[3].scale == 0.25


def test_layers_share_tables_of_equal_ropes_only() -> None:
    spec = spec_of()
    other = dataclasses.replace(spec.layers[1], mixer=dataclasses.replace(spec.layers[1].attn, rope=Rope(theta=5e5)))
    spec = dataclasses.replace(spec, layers=(*spec.layers, other))
    qkvs = [op for op in lower(spec, weights_of(spec), kv_dtype="float32", max_len=8).ops if isinstance(op, ops.Qkv)]
    assert qkvs[0].rope is qkvs[1].rope
    assert qkvs[0].rope is not qkvs[2].rope
    assert qkvs[0].rope.cos.shape == (8, 16)
    assert qkvs[0].rope.cos.dtype == np.float32


def test_unquantized_weights_read_their_own_precision() -> None:
    assert acts(spec_of(), Layout.F32) == [Act(32)] * 4
    assert acts(spec_of(), Layout.BF16) == [Act(16)] * 4


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("layout", QUANTIZED)
def test_quantized_weights_read_int8_in_their_own_groups(layout: Layout, group: int) -> None:
    spec = spec_of(width=256, heads=4, head_dim=64, inner=384)
    assert acts(spec, layout, group) == [Act(8, group)] * 4


def test_groups_of_16_and_of_32_read_one_form_of_input() -> None:
    spec = spec_of()
    for layout in HALVES:
        assert acts(spec, layout, 16) == [Act(8, 32)] * 4
    mixed = random_weight(np.random.default_rng(0), Shape(Layout.W8, group=16), 32, 64)  # v of a Q4_K_M file
    weights = weights_of(spec, Layout.W4M) | {"layers.0.v": mixed}
    program = lower(spec, weights, kv_dtype="float32", max_len=8)
    assert program.ops[1].act == program.ops[2].act == Act(8, 32)


def test_exact_reads_float32_everywhere() -> None:
    spec = spec_of(tied=False)
    for layout in Layout:
        program = lower(spec, weights_of(spec, layout), kv_dtype="float32", max_len=8, exact=True)
        found = [getattr(op, name) for op in program.ops for name in ("act", "act_out") if hasattr(op, name)]
        assert found == [Act(32)] * 17


def test_what_cannot_be_lowered_is_refused() -> None:
    spec = spec_of()
    weights = weights_of(spec)

    def refused(text: str, spec: ModelSpec = spec, **changed: object) -> None:
        with pytest.raises(ModelError, match=text):
            lower(spec, weights | changed, kv_dtype="float32", max_len=8)

    rng = np.random.default_rng(0)
    refused(r"layers.1.up: nothing where a matrix of 96 x 64 is declared", **{"layers.1.up": None})
    refused(r"layers.0.k: a matrix of 33 x 64", **{"layers.0.k": random_weight(rng, Shape(), 33, 64)})
    refused(r"norm: float32 \[63\] where a float32 vector of 64", norm=np.zeros(63, np.float32))
    refused(r"head: nothing", spec=dataclasses.replace(spec, tied=False))
    mixed = random_weight(rng, Shape(Layout.W8), 32, 64)
    refused("layers.0.k, layers.0.v: stored as F32, F32, W8", **{"layers.0.v": mixed})
    coarse = random_weight(rng, Shape(Layout.W4, group=64), 96, 64)
    quantized = weights_of(spec, Layout.W4)
    refused("layers.0.gate, layers.0.up: stored in groups of 32, 64", **quantized | {"layers.0.up": coarse})
    refused("3 heads of 16 over 2 key heads: uneven", spec=spec_of(heads=3, head_dim=16, kv_heads=2))
    refused("of 15 over", spec=spec_of(heads=3, head_dim=15, kv_heads=3))
    other = spec_of(heads=3, head_dim=16, kv_heads=3)
    uneven = dataclasses.replace(spec, layers=(spec.layers[0], other.layers[0]))
    refused(r"layers.1: heads differ", spec=uneven)
    with pytest.raises(InvalidValue, match="kv_dtype: 'int8' is not accepted; bfloat16 or float32"):
        lower(spec, weights, kv_dtype="int8", max_len=8)
