"""LFM2: Llama's blocks with norms of heads, most of them with a short convolution between two gates for attention.

LFM2-MoE has mixtures of experts behind the first layers, chosen by a sigmoid with a correction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, decoder, experts_of
from octavo.models.names import Architecture, experts_like, gguf_like, llama_like
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import Conv, HeadNorm, Layer, Mlp, ModelSpec, Moe, Norm

KINDS = ("full_attention", "conv")
SIGMOID = 2  # a GGUF file's expert_gating_func


def dense(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return _hybrid(c, Mlp(inner(c)), lambda index, layer: layer)


def mixed(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("expert_gating_func", SIGMOID)
    experts = Moe(
        *experts_of(c),
        c.integer("moe_intermediate_size"),
        scoring="sigmoid",
        renormalise=c.boolean("norm_topk_prob", True),
        scale=c.number("routed_scaling_factor", 1.0),
        correction=c.boolean("use_expert_bias", True),
    )
    first = c.integer("num_dense_layers", 2, low=0, high=LAYERS)

    def change(index: int, layer: Layer) -> Layer:
        return layer if index < first else replace(layer, ffn=experts)

    return _hybrid(c.over(num_local_experts=None), Mlp(c.integer("intermediate_size")), change)


def _hybrid(c: Settings, ffn: Mlp, more: Callable[[int, Layer], Layer]) -> ModelSpec:
    """more: what is changed of a layer beside its convolution."""
    attends = attending(c)
    width, norm = c.integer("hidden_size"), Norm(c.number("norm_eps", 1e-5))
    c.only("sliding_window", 0)
    for name in ("conv_dim", "conv_dim_out", "block_dim"):
        c.only(name, width)
    conv = Conv(c.integer("conv_L_cache", 3), c.boolean("conv_bias"))

    def change(index: int, layer: Layer) -> Layer:
        return more(index, layer if attends[index] else replace(layer, mixer=conv))

    return decoder(
        c,
        norm=norm,
        qkv_bias=False,
        out_bias=False,
        head_norm=HeadNorm(norm),
        ffn=ffn,
        turning=lambda c, dim: rope(c, dim, theta=1e6),
        change=change,
        max_len=128_000,
        tied=c.boolean("tie_embedding", c.boolean("tie_word_embeddings", True)),
    )


def attending(c: Settings) -> list[bool]:
    """Of each layer whether it has attention, as one at least must. Raises ModelError."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    name = "full_attn_idxs" if c.has("full_attn_idxs") and not c.has("layer_types") else "layer_types"
    if c.has("layer_types"):
        found = [kind == "full_attention" for kind in c.each("layer_types", count, *KINDS)]
    else:
        places = c.value("full_attn_idxs", list(range(count)))
        if not isinstance(places, list) or any(type(at) is not int or not 0 <= at < count for at in places):
            raise c.refused("full_attn_idxs", f"a list of layers, from 0 to {count - 1}")
        found = [index in places for index in range(count)]
    if not any(found):
        raise c.refused(name, "attention in one layer or more")
    return found


def inner(c: Settings) -> int:
    """Outputs of a feed-forward: what is declared, or two thirds of it as a multiple. Raises ModelError."""
    name = "block_ff_dim" if c.has("block_ff_dim") else "intermediate_size"
    size = c.integer(name)
    if not c.boolean("block_auto_adjust_ff_dim", True):
        return size
    size = int(2 * size / 3)
    if c.has("block_ffn_dim_multiplier") or not c.given("block_ffn_dim_multiplier"):
        multiple = c.integer("block_multiple_of", 256)
        size = -(-int(c.number("block_ffn_dim_multiplier", 1.0) * size) // multiple) * multiple
    if not 0 < size < 2**31:
        raise c.refused(name, "an integer that leaves some of it when it is adjusted")
    return size


def _layers(c: Settings, source: Source) -> dict[str, Any]:
    """GGUF says so of a layer by its number of key heads, and the size of a feed-forward as it is."""
    heads = c.value("num_key_value_heads")
    if not isinstance(heads, list) or any(type(count) is not int for count in heads):
        raise c.refused("num_key_value_heads", "a list of integers, 0 where a layer has no attention")
    some = {count for count in heads if count}
    if len(some) != 1:
        raise c.refused("num_key_value_heads", "one number of key heads in all layers that have any")
    return {
        "num_key_value_heads": some.pop(),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "block_auto_adjust_ff_dim": False,
    }


CONVOLUTION = ("conv_b", "conv_c", "conv_z")
GGUF = gguf_like(
    {"o": "attn_output|shortconv.out_proj", "taps": "shortconv.conv"} | dict.fromkeys(CONVOLUTION, "shortconv.in_proj")
)
TENSORS = {
    "safetensors": llama_like(
        {
            "attn_norm": "operator_norm",
            "q_norm": "self_attn.q_layernorm",
            "k_norm": "self_attn.k_layernorm",
            "o": "self_attn.out_proj|conv.out_proj",
            "taps": "conv.conv",
            "ffn_norm": "ffn_norm",
            "gate": "feed_forward.w1",
            "up": "feed_forward.w3",
            "down": "feed_forward.w2",
        }
        | dict.fromkeys(CONVOLUTION, "conv.in_proj"),
        {"norm": "{p}embedding_norm.weight"},
        whole=experts_like("feed_forward", {"gate": "w1", "up": "w3", "down": "w2"})
        | {"correction": "feed_forward.expert_bias"},
    ),
    # The norm before the head is called that of the embedding there.
    "gguf": replace(
        GGUF,
        names={**GGUF.names, "norm": "token_embd_norm.weight", "layers.{i}.correction": "blk.{i}.exp_probs_b.bias"},
    ),
}
WORDS = {"rms_norm_eps": "norm_eps", "first_k_dense_replace": "num_dense_layers"}
LFM2 = Architecture(
    names=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    gguf=("lfm2",),
    tensors=TENSORS,
    spec=dense,
    title="LFM2",
    notes="350M to 2.6B; what convolutions read of earlier tokens is cached in pages, as keys and values are",
    words=WORDS,
    more=_layers,
)
LFM2_MOE = Architecture(
    names=("Lfm2MoeForCausalLM",),
    gguf=("lfm2moe",),
    tensors=TENSORS,
    spec=mixed,
    title="LFM2-MoE",
    notes="8B-A1B, 24B-A2B",
    words=WORDS,
    more=_layers,
)
