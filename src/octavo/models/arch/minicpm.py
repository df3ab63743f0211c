"""MiniCPM: Llama whose embeddings, additions and logits are scaled by its depth and width."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import LAYERS, decoder
from octavo.models.names import LLAMA, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("num_experts", 0)
    added = c.number("scale_depth", 1.0) / c.integer("num_hidden_layers", high=LAYERS) ** 0.5
    return decoder(
        c,
        change=lambda index, layer: replace(layer, scale=added),
        embed_scale=c.number("scale_emb", 1.0),
        logit_scale=c.integer("dim_model_base", 1) / c.integer("hidden_size"),
        tied=c.boolean("tie_word_embeddings", True),
    )


ARCHITECTURE = Architecture(
    names=("MiniCPMForCausalLM",),
    gguf=(),
    tensors={"safetensors": LLAMA},
    spec=spec,
    title="MiniCPM",
    notes="1B, 2B and MiniCPM4 without its sparse attention",
)
