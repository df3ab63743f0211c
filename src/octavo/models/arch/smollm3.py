"""SmolLM3: Llama that does not turn on every fourth layer."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import LAYERS, decoder
from octavo.models.arch.qwen import sliding
from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import Layer, ModelSpec


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    every = c.integer("no_rope_layer_interval", 4)
    turns = [int((index + 1) % every != 0) for index in range(count)]
    if c.has("no_rope_layers"):  # which says where there is rotation
        turns = c.each("no_rope_layers", count, 0, 1)

    def change(index: int, layer: Layer) -> Layer:
        return layer if turns[index] else replace(layer, mixer=replace(layer.attn, rope=None))

    return decoder(c, change=change, sliding=sliding(c), max_len=32768, tied=c.boolean("tie_word_embeddings", True))


ARCHITECTURE = Architecture(
    names=("SmolLM3ForCausalLM",),
    gguf=("smollm3",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=spec,
    title="SmolLM3",
)
