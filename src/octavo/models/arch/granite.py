"""Granite: Llama whose embeddings, scores, additions and logits are scaled. GraniteMoE: with mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import activation, decoder, experts_of
from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import Layer, ModelSpec, Moe


def granite(c: Settings, moe: Moe | None = None) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    scale, added = c.number("attention_multiplier", 1.0), c.number("residual_multiplier", 1.0)

    def change(index: int, layer: Layer) -> Layer:
        return replace(layer, mixer=replace(layer.attn, scale=scale), scale=added)

    return decoder(
        c,
        ffn=moe,
        change=change,
        embed_scale=c.number("embedding_multiplier", 1.0),
        logit_scale=1 / c.number("logits_scaling", 1.0),
    )


def granite_moe(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    moe = Moe(*experts_of(c), c.integer("intermediate_size"), activation=activation(c, "silu"), renormalise=True)
    return granite(c.over(num_local_experts=None), moe)


STACKED = {
    "router": "block_sparse_moe.router.layer",
    "expert_gate": "block_sparse_moe.input_linear",
    "expert_up": "block_sparse_moe.input_linear",
    "expert_down": "block_sparse_moe.output_linear",
}
GRANITE = Architecture(
    names=("GraniteForCausalLM",),
    gguf=("granite",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=granite,
    title="Granite",
    words={"logit_scale": "logits_scaling"},
    notes="3.x dense",
)
GRANITE_MOE = Architecture(
    names=("GraniteMoeForCausalLM",),
    gguf=("granitemoe",),
    tensors={"safetensors": llama_like(STACKED), "gguf": LLAMA_GGUF},
    spec=granite_moe,
    title="GraniteMoE",
    words={"logit_scale": "logits_scaling"},
    notes="3.x, 1B-A400M and 3B-A800M",
)
