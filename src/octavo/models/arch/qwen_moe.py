"""Qwen2-MoE and Qwen3-MoE: Qwen2 and Qwen3 with mixtures of experts on some or all layers.

Qwen2-MoE has one more expert for all tokens, times a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from octavo.models.arch.llama import LAYERS, activation, decoder, experts_of
from octavo.models.arch.qwen import sliding
from octavo.models.names import GGUF, Architecture, experts_like, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Layer, Mlp, ModelSpec, Moe, Norm


def qwen2_moe(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    inner = c.integer("shared_expert_intermediate_size", c.integer("intermediate_size"))
    moe = replace(mixture(c), shared=Mlp(inner, False, activation(c, "silu")), shared_gate=True)
    return decoder(
        c.over(num_local_experts=None),
        qkv_bias=c.boolean("qkv_bias", True),
        out_bias=False,
        change=mixed(c, moe),
        sliding=sliding(c),
        max_len=32768,
    )


def qwen3_moe(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    norm = HeadNorm(Norm(c.number("rms_norm_eps", 1e-6)))
    plain = c.over(num_local_experts=None)
    return decoder(plain, head_norm=norm, change=mixed(c, mixture(c)), sliding=sliding(c), max_len=32768)


def mixture(c: Settings) -> Moe:
    """The experts of a layer that has them."""
    inner, function = c.integer("moe_intermediate_size"), activation(c, "silu")
    return Moe(*experts_of(c), inner, activation=function, renormalise=c.boolean("norm_topk_prob"))


def mixed(c: Settings, moe: Moe) -> Callable[[int, Layer], Layer]:
    """Which layers are mixtures: every `decoder_sparse_step`-th, but for `mlp_only_layers`."""
    step, dense = c.integer("decoder_sparse_step", 1), c.value("mlp_only_layers", [])
    count = c.integer("num_hidden_layers", high=LAYERS)
    if not isinstance(dense, list) or any(type(index) is not int or not 0 <= index < count for index in dense):
        raise c.refused("mlp_only_layers", f"numbers of layers, from 0 to {count - 1}")
    return lambda index, layer: layer if index in dense or (index + 1) % step else replace(layer, ffn=moe)


NAMES = experts_like("mlp")
QWEN2_MOE = Architecture(
    names=("Qwen2MoeForCausalLM",),
    gguf=("qwen2moe",),
    tensors={
        "safetensors": llama_like(
            {part: f"mlp.{part}_proj|mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")},
            whole=NAMES | {"shared_gate": "mlp.shared_expert_gate.weight"},
        ),
        "gguf": GGUF,
    },
    spec=qwen2_moe,
    title="Qwen2-MoE",
    notes="Qwen1.5-MoE, Qwen2-57B-A14B",
)
QWEN3_MOE = Architecture(
    names=("Qwen3MoeForCausalLM",),
    gguf=("qwen3moe",),
    tensors={"safetensors": llama_like(whole=NAMES), "gguf": GGUF},
    spec=qwen3_moe,
    title="Qwen3-MoE",
)
