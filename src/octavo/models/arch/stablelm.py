"""StableLM 2 and StableLM 3B: Llama with layer norms and a quarter of a rotation; in 2 12B each head has its norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import activation, decoder
from octavo.models.joined import rows_apart
from octavo.models.names import GGUF, Architecture, llama_like
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    norm = Norm(c.number("layer_norm_eps", 1e-5), "layer", bias=True)
    each = HeadNorm(replace(norm, bias=False), "none") if c.boolean("qk_layernorm") else None
    parallel = c.boolean("use_parallel_residual")
    return decoder(
        c,
        norm=norm,
        head_norm=each,
        qkv_bias=c.boolean("use_qkv_bias"),
        out_bias=False,
        ffn=Mlp(c.integer("intermediate_size"), False, activation(c, "silu")),
        turning=lambda c, dim: rope(c, dim, partial=0.25),
        change=lambda index, layer: replace(layer, parallel=parallel, shared=parallel),
    )


def _kind(c: Settings, source: Source) -> dict[str, Any]:
    """What a GGUF file is told by its tensors."""
    return {
        "qk_layernorm": "blk.0.attn_q_norm.weight" in source.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in source.tensors,
    }


FOLDER = replace(
    llama_like({"q_norm": "self_attn.q_layernorm", "k_norm": "self_attn.k_layernorm"}),
    join=rows_apart(r"(?P<before>.*\.[qk]_layernorm)\.norms\.(?P<number>0|[1-9]\d{0,3})(?P<behind>\.weight)"),
)
ARCHITECTURE = Architecture(
    names=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    gguf=("stablelm",),
    tensors={"safetensors": FOLDER, "gguf": GGUF},
    spec=spec,
    title="StableLM",
    notes="2 1.6B, 2 12B, 3B, Zephyr",
    words={"attention_bias": "use_qkv_bias"},
    more=_kind,
)
