"""Mistral: Llama, where no sliding window is active. Its GGUF files call themselves llama."""

from __future__ import annotations

from octavo.models.arch import llama
from octavo.models.names import LLAMA, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


def spec(c: Settings) -> ModelSpec:
    """As Llama's, but what Llama and Mistral complete differently when it is left out must be given."""
    if not c.given("sliding_window"):
        raise c.refused("sliding_window", "null: Mistral without it means 4096, and no window is supported")
    c.integer("num_key_value_heads")
    c.integer("max_position_embeddings")
    return llama.spec(c)


ARCHITECTURE = Architecture(names=("MistralForCausalLM",), gguf=(), tensors={"safetensors": LLAMA}, spec=spec)
