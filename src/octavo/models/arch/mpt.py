"""MPT: ALiBi instead of positions, layer norms without biases, clamped projections."""

from __future__ import annotations

from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, whole
from octavo.models.names import GGUF, QKV, Architecture, Tensors, names_of, stacked
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("no_bias", True)
    c.only("logit_scale")
    width, heads, inside = c.integer("d_model"), c.integer("n_heads"), c.section("attn_config")
    if width % (2 * heads):
        raise c.refused("n_heads", f"a divisor of half the width, which is {width}")
    inside.only("alibi", True)
    inside.only("attn_type", "multihead_attention")
    inside.only("qk_ln", False)
    inside.only("prefix_lm", False)
    norm = Norm(c.number("layer_norm_epsilon", 1e-5), "layer")
    attn = Attn(
        heads,
        heads,
        width // heads,
        None,
        scale=inside.number("softmax_scale", 0.0, low=0),
        alibi=inside.number("alibi_bias_max", 8.0),
        clip=inside.number("clip_qkv", 0.0, low=0),
    )
    inner = c.integer("expansion_ratio", 4, high=1024) * width
    layers = [Layer(attn, Mlp(inner, False, "gelu", gated=False), norm)] * c.integer("n_layers", high=LAYERS)
    tied = c.boolean("tie_word_embeddings", True)
    return whole(c, layers, width, norm, max_len=c.integer("max_seq_len", 2048), tied=tied)


def _inside(c: Settings, source: Source) -> dict[str, Any]:
    """The settings of attention, which config.json has in an object."""
    names = {"alibi_bias_max": c.value("alibi_bias_max"), "clip_qkv": c.value("clip_qkv")}
    return {"attn_config": {"alibi": "position_embd.weight" not in source.tensors} | names}


OUTER = {"embed": "{p}wte.weight", "norm": "{p}norm_f.weight", "head": "lm_head.weight"}
INNER = {
    "attn_norm": "norm_1",
    "o": "attn.out_proj",
    "ffn_norm": "norm_2",
    "up": "ffn.up_proj",
    "down": "ffn.down_proj",
} | dict.fromkeys(QKV, "attn.Wqkv")
ARCHITECTURE = Architecture(
    names=("MPTForCausalLM", "MptForCausalLM"),
    gguf=("mpt",),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}blocks.{i}.", INNER),
            harmless=(r"lm_head\.weight",),
            fused=stacked(*QKV),
            prefixes=("transformer.", ""),
        ),
        "gguf": GGUF,
    },
    spec=spec,
    title="MPT",
    words={
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "max_position_embeddings": "max_seq_len",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    more=_inside,
)
