"""Mixtral: Mistral with a mixture of experts, whose shares add up to 1. Its GGUF files call themselves llama."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, activation, decoder, experts_of, windows
from octavo.models.names import Architecture, experts_like, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec, Moe


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    moe = Moe(*experts_of(c), c.integer("intermediate_size"), activation=activation(c, "silu"), renormalise=True)
    sliding = windows(c, c.integer("num_hidden_layers", high=LAYERS))
    return decoder(c.over(num_local_experts=None), ffn=moe, sliding=sliding, max_len=131072)


NAMES = experts_like("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"})
ARCHITECTURE = Architecture(
    names=("MixtralForCausalLM",),
    gguf=(),
    tensors={"safetensors": llama_like(whole=NAMES)},
    spec=spec,
    title="Mixtral",
    notes="GGUF files are of the architecture llama",
)
