"""StableLM 2 and StableLM 3B: Llama with layer norms and a quarter of a rotation."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import activation, decoder
from octavo.models.names import GGUF, LLAMA, Architecture
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("qk_layernorm", False)
    parallel = c.boolean("use_parallel_residual")
    return decoder(
        c,
        norm=Norm(c.number("layer_norm_eps", 1e-5), "layer", bias=True),
        qkv_bias=c.boolean("use_qkv_bias"),
        out_bias=False,
        ffn=Mlp(c.integer("intermediate_size"), False, activation(c, "silu")),
        turning=lambda c, dim: rope(c, dim, partial=0.25),
        change=lambda index, layer: replace(layer, parallel=parallel, shared=parallel),
    )


ARCHITECTURE = Architecture(
    names=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    gguf=("stablelm",),
    tensors={"safetensors": LLAMA, "gguf": GGUF},
    spec=spec,
    title="StableLM",
    notes="2 1.6B, 3B, Zephyr; not 2 12B, whose heads have norms of their own",
    words={"attention_bias": "use_qkv_bias"},
)
