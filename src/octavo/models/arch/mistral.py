"""Mistral: Llama with a sliding window, in its first version. Its GGUF files call themselves llama."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, decoder, windows
from octavo.models.names import LLAMA, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


def spec(c: Settings) -> ModelSpec:
    """As Llama's, but what Llama and Mistral complete differently when it is left out must be given."""
    c.integer("num_key_value_heads")
    c.integer("max_position_embeddings")
    default = 0 if c.given("sliding_window") else 4096
    return decoder(c, sliding=windows(c, c.integer("num_hidden_layers", high=LAYERS), default))


ARCHITECTURE = Architecture(
    names=("MistralForCausalLM",),
    gguf=(),
    tensors={"safetensors": LLAMA},
    spec=spec,
    title="Mistral",
    notes="7B 0.1 to 0.3, Nemo, Small as text; sliding windows; GGUF files are of the architecture llama",
)
