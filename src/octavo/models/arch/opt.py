"""OPT: layer norms with biases, learned positions whose table begins with two rows of no position."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.names import Architecture, Tensors, names_of
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    width, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    if width % (2 * heads):
        raise c.refused("num_attention_heads", f"a divisor of half the width, which is {width}")
    c.only("word_embed_proj_dim", width)
    c.only("do_layer_norm_before", True)
    c.only("_remove_final_layer_norm", False)
    affine, bias = c.boolean("layer_norm_elementwise_affine", True), c.boolean("enable_bias", True)
    norm = Norm(1e-5, "layer", weight=affine, bias=affine)
    attn = Attn(heads, heads, width // heads, None, qkv_bias=bias, out_bias=bias)
    ffn = Mlp(c.integer("ffn_dim"), bias, activation(c, "relu", name="activation_function"), gated=False)
    layers = [Layer(attn, ffn, norm)] * c.integer("num_hidden_layers", high=LAYERS)
    positions = c.integer("max_position_embeddings", 2048)
    tied = c.boolean("tie_word_embeddings", True)
    return whole(c, layers, width, norm, max_len=positions, positions=positions, tied=tied)


OUTER = {
    "embed": "{p}embed_tokens.weight",
    "positions": "{p}embed_positions.weight",
    "norm": "{p}final_layer_norm.weight",
    "norm_bias": "{p}final_layer_norm.bias",
    "head": "lm_head.weight",
}
INNER = {
    "attn_norm": "self_attn_layer_norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}
ARCHITECTURE = Architecture(
    names=("OPTForCausalLM",),
    gguf=(),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}layers.{i}.", INNER),
            harmless=(r"lm_head\.weight",),
            skipped={"positions": 2},
            prefixes=("model.decoder.", "decoder."),
        )
    },
    spec=spec,
    title="OPT",
    notes="not 350m, whose norms come after",
)
