"""BLOOM: ALiBi instead of positions, a norm of the embeddings, projections fused head by head."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, whole
from octavo.models.names import GGUF, QKV, Architecture, Tensors, names_of, stacked
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("apply_residual_connection_post_layernorm", False)
    width = c.integer("hidden_size" if c.has("hidden_size") else "n_embed")
    heads = c.integer("n_head" if c.has("n_head") else "num_attention_heads")
    if width % (2 * heads):
        raise c.refused("n_head", f"a divisor of half the width, which is {width}")
    norm = Norm(c.number("layer_norm_epsilon", 1e-5), "layer", bias=True)
    attn = Attn(heads, heads, width // heads, None, qkv_bias=True, out_bias=True, alibi=8.0)
    ffn = Mlp(c.integer("n_inner", 4 * width), True, "gelu_tanh", gated=False)
    layers = [Layer(attn, ffn, norm)] * c.integer("n_layer", high=LAYERS)
    tied = c.boolean("tie_word_embeddings", True)
    return whole(c, layers, width, norm, max_len=c.integer("seq_length", 2048), embed_norm=norm, tied=tied)


OUTER = {
    "embed": "{p}word_embeddings.weight",
    "embed_norm": "{p}word_embeddings_layernorm.weight",
    "embed_norm_bias": "{p}word_embeddings_layernorm.bias",
    "norm": "{p}ln_f.weight",
    "norm_bias": "{p}ln_f.bias",
    "head": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "o": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
} | dict.fromkeys(QKV, "self_attention.query_key_value")
ARCHITECTURE = Architecture(
    names=("BloomForCausalLM", "BloomModel"),
    gguf=("bloom",),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}h.{i}.", INNER),
            harmless=(r"lm_head\.weight",),
            fused=stacked(*QKV, how="grouped"),
            prefixes=("transformer.", ""),
        ),
        "gguf": GGUF,
    },
    spec=spec,
    title="BLOOM",
    notes="also BLOOMZ",
    words={
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "seq_length",
        "layer_norm_eps": "layer_norm_epsilon",
    },
)
