"""MiniCPM: Llama whose embeddings, additions and logits are scaled by its depth and width."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, decoder
from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture
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


def _scales(c: Settings, source: Source) -> dict[str, Any]:
    """The scales of a GGUF file, which are worked out, as those of config.json, which are not. Old files have none."""
    layers, width = c.integer("num_hidden_layers", high=LAYERS), c.integer("hidden_size")
    return {
        "scale_emb": c.number("embedding_multiplier", 12.0),
        "scale_depth": c.number("residual_multiplier", 1.4 / layers**0.5) * layers**0.5,
        "dim_model_base": max(1, round(width / c.number("logit_scale", width / 256))),
    }


ARCHITECTURE = Architecture(
    names=("MiniCPMForCausalLM",),
    gguf=("minicpm",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=spec,
    title="MiniCPM",
    more=_scales,
    notes="1B, 2B and MiniCPM4 without its sparse attention",
)
