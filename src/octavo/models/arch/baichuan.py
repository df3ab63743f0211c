"""Baichuan 1 and 2: Llama with fused projections; 13B with ALiBi; of the second, rows of the head have length 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import decoder
from octavo.models.names import LLAMA_GGUF, QKV, Architecture, llama_like, stacked
from octavo.models.settings import Settings
from octavo.models.spec import Layer, ModelSpec

SECOND = 125_696  # the vocabulary of Baichuan 2
LAYERS_13B = 40


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported. 13B gives its length by another name than 7B."""
    turned = c.has("max_position_embeddings")
    c = c if turned else c.over(max_position_embeddings=c.integer("model_max_length", 4096))

    def change(index: int, layer: Layer) -> Layer:
        return layer if turned else replace(layer, mixer=replace(layer.attn, rope=None, alibi=8.0))

    unit = c.boolean("unit_head", c.has("z_loss_weight") or c.value("vocab_size") == SECOND)
    return decoder(c, qkv_bias=False, out_bias=False, change=change, unit_head=unit)


def _kind(c: Settings, source: Source) -> dict[str, Any]:
    """Which of the two a GGUF file is; its head is used as it is, since rows have length 1 before it is converted."""
    length = c.value("max_position_embeddings")
    turned = c.value("num_hidden_layers") != LAYERS_13B
    return {"unit_head": False} | ({} if turned else {"max_position_embeddings": None, "model_max_length": length})


ARCHITECTURE = Architecture(
    names=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    gguf=("baichuan",),
    tensors={
        "safetensors": llama_like(dict.fromkeys(QKV, "self_attn.W_pack"), fused=stacked(*QKV)),
        "gguf": LLAMA_GGUF,
    },
    spec=spec,
    title="Baichuan, Baichuan2",
    notes="7B and 13B",
    more=_kind,
)
