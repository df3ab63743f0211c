"""OPT: layer norms with biases, learned positions whose table begins with two rows of no position.

350m has its norms after each half, and a narrow table of embeddings with a matrix that widens it; the head has one that
narrows. Each is multiplied with the table when it is read: tables as wide as the model are what is left.
"""

from __future__ import annotations

from collections.abc import Mapping

from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.joined import Stored, product
from octavo.models.names import Architecture, Tensors, names_of
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    width, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    if width % (2 * heads):
        raise c.refused("num_attention_heads", f"a divisor of half the width, which is {width}")
    before, narrow = c.boolean("do_layer_norm_before", True), c.integer("word_embed_proj_dim", width)
    c.only("_remove_final_layer_norm", False)
    affine, bias = c.boolean("layer_norm_elementwise_affine", True), c.boolean("enable_bias", True)
    norm = Norm(1e-5, "layer", weight=affine, bias=affine)
    attn = Attn(heads, heads, width // heads, None, qkv_bias=bias, out_bias=bias)
    ffn = Mlp(c.integer("ffn_dim"), bias, activation(c, "relu", name="activation_function"), gated=False)
    none = Norm(kind="none")
    layer = Layer(attn, ffn, norm) if before else Layer(attn, ffn, none, after=norm)
    layers = [layer] * c.integer("num_hidden_layers", high=LAYERS)
    positions = c.integer("max_position_embeddings", 2048)
    tied = c.boolean("tie_word_embeddings", True) and narrow == width
    return whole(c, layers, width, norm if before else none, max_len=positions, positions=positions, tied=tied)


def widened(held: Mapping[str, Stored]) -> Mapping[str, Stored]:
    """Tables as wide as the model, where they are narrower."""
    out = dict(held)
    for prefix in PREFIXES:
        names = [f"{prefix}{name}.weight" for name in ("embed_tokens", "project_in", "project_out")]
        if all(name in held for name in names):
            table, wider, narrower = (held[name] for name in names)
            out |= {
                names[0]: product(names[0], table, wider, turned=True),
                HEAD: product(HEAD, held.get(HEAD, table), narrower),
            }
            del out[names[1]], out[names[2]]
    return out


HEAD = "lm_head.weight"
PREFIXES = ("model.decoder.", "decoder.")
OUTER = {
    "embed": "{p}embed_tokens.weight",
    "positions": "{p}embed_positions.weight",
    "norm": "{p}final_layer_norm.weight",
    "norm_bias": "{p}final_layer_norm.bias",
    "head": HEAD,
}
INNER = {
    **dict.fromkeys(("attn_norm", "attn_after"), "self_attn_layer_norm"),
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.out_proj",
    **dict.fromkeys(("ffn_norm", "ffn_after"), "final_layer_norm"),
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
            prefixes=PREFIXES,
            join=widened,
        )
    },
    spec=spec,
    title="OPT",
)
