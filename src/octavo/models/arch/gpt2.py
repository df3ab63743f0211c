"""GPT-2: layer norms with biases, learned positions, matrices stored [inputs, outputs]."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.names import GGUF, QKV, Architecture, Tensors, names_of, stacked
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("scale_attn_weights", True)
    c.only("scale_attn_by_inverse_layer_idx", False)
    c.only("add_cross_attention", False)
    width, heads = c.integer("n_embd"), c.integer("n_head")
    if width % (2 * heads):
        raise c.refused("n_head", f"a divisor of half the width, which is {width}")
    norm = Norm(c.number("layer_norm_epsilon", 1e-5), "layer", bias=True)
    attn = Attn(heads, heads, width // heads, None, qkv_bias=True, out_bias=True)
    ffn = Mlp(c.integer("n_inner", 4 * width), True, activation(c, "gelu_new", name="activation_function"), gated=False)
    layers = [Layer(attn, ffn, norm)] * c.integer("n_layer", high=LAYERS)
    positions = c.integer("n_positions", 1024)
    tied = c.boolean("tie_word_embeddings", True)
    return whole(c, layers, width, norm, max_len=positions, positions=positions, tied=tied)


OUTER = {
    "embed": "{p}wte.weight",
    "positions": "{p}wpe.weight",
    "norm": "{p}ln_f.weight",
    "norm_bias": "{p}ln_f.bias",
    "head": "lm_head.weight",
}
INNER = {"attn_norm": "ln_1", "o": "attn.c_proj", "ffn_norm": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
ARCHITECTURE = Architecture(
    names=("GPT2LMHeadModel", "GPT2Model"),
    gguf=("gpt2",),
    tensors={
        "safetensors": Tensors(
            names=names_of(OUTER, "{p}h.{i}.", INNER | dict.fromkeys(QKV, "attn.c_attn")),
            harmless=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", r"lm_head\.weight"),
            fused=stacked(*QKV),
            transposed=(*QKV, "o", "up", "down"),
            prefixes=("transformer.", ""),
        ),
        "gguf": GGUF,
    },
    spec=spec,
    title="GPT-2",
    words={
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "layer_norm_eps": "layer_norm_epsilon",
    },
)
