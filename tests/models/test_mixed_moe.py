"""Mixtures whose experts are stored in several types: as llama-quantize mixes them, and each in its own."""

from __future__ import annotations

from pathlib import Path

import gguf_file
import numpy as np
import pytest
import tiny_engine
from op_cases import VOCAB
from parity import native_logits_agree

from octavo.checkpoint.source import open_source
from octavo.kernels import native
from octavo.kernels.weight import Layout, Weight
from octavo.models.load import load
from octavo.models.registry import read_spec
from octavo.program.ops import Act, MoeIn, MoeOut, Program

WIDTH, EXPERTS, LAYERS = 256, 4, 2
KEYS = {
    "block_count": LAYERS,
    "context_length": 256,
    "embedding_length": WIDTH,
    "feed_forward_length": WIDTH,
    "attention.head_count": 8,
    "attention.head_count_kv": 8,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "vocab_size": VOCAB,
}
# As Q4_K_M: the second half of attention's values and of what goes down is finer in some layers.
MIXED = {"attn_v": ("Q6_K", "Q4_K"), "ffn_down_exps": ("Q6_K", "Q4_K"), "ffn_up_exps": ("Q4_K", "Q8_0")}
# As files before experts were stacked may have it: each expert a tensor of its own, in any type.
APART = {
    "ffn_gate": ("Q4_K", "Q8_0", "Q6_K", "Q4_0"),
    "ffn_up": ("Q6_K", "Q4_K", "Q8_0", "Q4_1"),
    "ffn_down": ("Q8_0", "Q4_K", "BF16", "Q6_K"),
}


def values() -> dict[str, np.ndarray]:
    """Weights by their names in a file, experts stacked."""
    rng = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output")
    stacks = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    shapes = {"token_embd": (VOCAB, WIDTH), "output": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": (WIDTH, WIDTH) for name in square}
        shapes |= {f"blk.{layer}.{name}": (EXPERTS, WIDTH, WIDTH) for name in stacks}
        shapes |= {f"blk.{layer}.ffn_gate_inp": (EXPERTS, WIDTH)}
    made = {name: rng.normal(0, 1.5 * WIDTH**-0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for layer in range(LAYERS):
        made[f"blk.{layer}.ffn_gate_inp"] *= 10  # so that rounding turns no token to another expert
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    return made | {name: np.ones(WIDTH, np.float32) for name in norms}


def kind_of(name: str) -> str:
    """The type of a tensor that `MIXED` or `APART` may say something of."""
    parts = name.split(".")
    if parts[0] != "blk" or "norm" in name or parts[2] == "ffn_gate_inp":
        return "F32"
    if len(parts) == 4:
        return APART[parts[2]][int(parts[3])]
    return MIXED.get(parts[2], ("Q4_K", "Q4_K"))[int(parts[1])]


def write(path: Path, *, apart: bool) -> Path:
    """The file."""
    tensors = {}
    for name, stored in values().items():
        split = apart and name.endswith("_exps")
        each = {f"{name.removesuffix('_exps')}.{i}": one for i, one in enumerate(stored)} if split else {name: stored}
        for key, one in each.items():
            tensors[key + ".weight"] = kind_of(key), one.shape, gguf_file.encode(kind_of(key), one)
    metadata = {"general.architecture": "llama", "tokenizer.ggml.eos_token_id": 2}
    return gguf_file.write(path, metadata | {f"llama.{key}": value for key, value in KEYS.items()}, tensors)


@pytest.fixture(scope="module", params=["stacked", "apart"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mixed") / "x.gguf", apart=request.param == "apart")


def mixtures(program: Program) -> list[tuple[MoeIn, MoeOut]]:
    ops = [op for op in program.ops if isinstance(op, MoeIn | MoeOut)]
    return [(first, second) for first, second in zip(ops[::2], ops[1::2], strict=True)]  # type: ignore[misc]


def test_stacks_of_several_types_keep_their_codes(tmp_path: Path) -> None:
    found = mixtures(tiny_engine.program_of(write(tmp_path / "x.gguf", apart=False)))
    assert [(first.act, second.act) for first, second in found] == [(Act(8, 32), Act(8, 32))] * LAYERS
    for layer, (first, second) in enumerate(found):
        assert {(e.gate.layout, e.up.layout) for e in first.experts if e.gate} == {
            (Layout.W4M, Layout.W4M if layer == 0 else Layout.W8)
        }
        assert {weight.layout for weight in second.weights} == {Layout.W8 if layer == 0 else Layout.W4M}


def test_experts_of_several_types_read_one_form(tmp_path: Path) -> None:
    """Codes stay codes; beside an expert of plain numbers all become plain numbers."""
    for first, second in mixtures(tiny_engine.program_of(write(tmp_path / "x.gguf", apart=True))):
        assert (first.act, second.act) == (Act(8, 32), Act(16))
        assert [e.gate.layout for e in first.experts if e.gate] == [Layout.W4M, Layout.W8, Layout.W8, Layout.W4]
        assert {weight.layout for weight in second.weights} == {Layout.BF16}


def test_the_numbers_are_those_of_the_file(path: Path) -> None:
    """Within the rounding of the coarsest type, and of bfloat16."""
    with open_source(path) as source:
        weights = load(source, read_spec(source))
    for name, part in (("gate", "expert_gate"), ("up", "expert_up"), ("down", "expert_down")):
        for layer in range(LAYERS):
            for expert in range(EXPERTS):
                weight = weights[f"layers.{layer}.{expert}.{part}"]
                assert isinstance(weight, Weight)
                wanted = values()[f"blk.{layer}.ffn_{name}_exps"][expert]
                assert np.abs(weight.dequantize() - wanted).max() < 0.12 * np.abs(wanted).max()


@pytest.mark.parametrize("isa", native.isas())
def test_native_logits_are_the_reference_s(path: Path, isa: str) -> None:
    native_logits_agree(tiny_engine.program_of(path), isa)
