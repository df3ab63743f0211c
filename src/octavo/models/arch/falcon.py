"""Falcon: 7B's one key head and one norm for both halves, 40B's groups of heads and a norm for each half.

RefinedWeb 1B has keys for each head and ALiBi, added before scores are scaled. transformers rounds its numbers to
bfloat16, position by position; here they are not rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import activation, decoder
from octavo.models.names import QKV, Architecture, Tensors, gguf_like, names_of, stacked
from octavo.models.settings import Settings
from octavo.models.spec import Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    alibi = c.boolean("alibi")
    new = c.boolean("new_decoder_architecture")
    many = c.boolean("multi_query", True) and not new
    parallel = new or c.boolean("parallel_attn", True)
    heads = "num_attention_heads" if c.has("num_attention_heads") else "n_head"
    count, width = c.integer(heads), c.integer("hidden_size")
    c = c.over(
        num_attention_heads=count,
        num_key_value_heads=1 if many else c.value("num_kv_heads", count) if new else count,
        num_hidden_layers=c.value("num_hidden_layers", c.value("n_layer")),
        head_dim=None,
    )
    norms = c.integer("num_ln_in_parallel_attn", 2 if new else 1, high=2)
    bias = c.boolean("bias")

    def change(index: int, layer: Layer) -> Layer:
        attn = layer.attn
        if alibi:
            attn = replace(attn, rope=None, alibi=8.0, alibi_scale=attn.head_dim**-0.5)
        return replace(layer, mixer=attn, parallel=parallel, shared=parallel and norms == 1)

    return decoder(
        c,
        norm=Norm(c.number("layer_norm_epsilon", 1e-5), "layer", bias=True),
        qkv_bias=bias,
        out_bias=bias,
        ffn=Mlp(c.integer("ffn_hidden_size", 4 * width), bias, activation(c, "gelu", name="activation"), gated=False),
        change=change,
        tied=c.boolean("tie_word_embeddings", True),
    )


def _kind(c: Settings, source: Source) -> dict[str, Any]:
    """Which of the two kinds a GGUF file is: told by its key heads and norms."""
    kv_heads = c.value("num_key_value_heads")
    return {
        "new_decoder_architecture": kv_heads != 1,
        "num_kv_heads": kv_heads,
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in source.tensors else 1,
    }


OUTER = {
    "embed": "{p}word_embeddings.weight",
    "norm": "{p}ln_f.weight",
    "norm_bias": "{p}ln_f.bias",
    "head": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm|ln_attn",
    "o": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm|ln_mlp",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
} | dict.fromkeys(QKV, "self_attention.query_key_value")
ARCHITECTURE = Architecture(
    names=("FalconForCausalLM", "RWForCausalLM"),
    gguf=("falcon",),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}h.{i}.", INNER),
            harmless=(r"lm_head\.weight",),
            fused=stacked(*QKV, how="grouped"),
            prefixes=("transformer.", ""),
        ),
        "gguf": gguf_like({"attn_norm": "attn_norm_2|attn_norm", "ffn_norm": "attn_norm"}),
    },
    spec=spec,
    title="Falcon",
    words={"layer_norm_eps": "layer_norm_epsilon"},
    more=_kind,
    notes="7B, 40B, 180B, Falcon 2, RefinedWeb 1B and 7B",
)
