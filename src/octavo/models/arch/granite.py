"""Granite: Llama whose embeddings, scores, additions and logits are scaled."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import decoder
from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import Layer, ModelSpec


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    scale, added = c.number("attention_multiplier", 1.0), c.number("residual_multiplier", 1.0)

    def change(index: int, layer: Layer) -> Layer:
        return replace(layer, attn=replace(layer.attn, scale=scale), scale=added)

    return decoder(
        c,
        change=change,
        embed_scale=c.number("embedding_multiplier", 1.0),
        logit_scale=1 / c.number("logits_scaling", 1.0),
    )


ARCHITECTURE = Architecture(
    names=("GraniteForCausalLM",),
    gguf=("granite",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=spec,
    title="Granite",
    words={"logit_scale": "logits_scaling"},
    notes="3.x dense",
)
