"""Phi-1, 1.5 and 2: attention and feed-forward side by side after one norm, biases everywhere, half a rotation."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import activation, decoder
from octavo.models.names import GGUF, Architecture, llama_like
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("qk_layernorm", False)
    return decoder(
        c,
        norm=Norm(c.number("layer_norm_eps", 1e-5), "layer", bias=True),
        qkv_bias=True,
        out_bias=True,
        ffn=Mlp(c.integer("intermediate_size"), True, activation(c, "gelu_new"), gated=False),
        turning=lambda c, dim: rope(c, dim, partial=0.5),
        change=lambda index, layer: replace(layer, parallel=True, shared=True),
        head_bias=True,
    )


INNER = {"o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"}
OUTER = {"norm": "{p}final_layernorm.weight", "norm_bias": "{p}final_layernorm.bias"}
ARCHITECTURE = Architecture(
    names=("PhiForCausalLM",),
    gguf=("phi2",),
    tensors={"safetensors": llama_like(INNER, OUTER), "gguf": GGUF},
    spec=spec,
    title="Phi-1, Phi-1.5, Phi-2",
)
