"""Llama: RMS norms before attention and feed-forward, rotary positions, grouped heads, gated silu feed-forward."""

from __future__ import annotations

from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture
from octavo.models.settings import Settings, end_ids, rope
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm

LAYERS = 10_000  # most layers believed


def spec(c: Settings) -> ModelSpec:
    """The model that these settings describe. Raises ModelError for what is malformed or not supported."""
    width, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    kv_heads = c.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise c.refused("num_key_value_heads", f"a divisor of the number of heads, which is {heads}")
    if width % heads and not c.has("head_dim"):
        raise c.refused("num_attention_heads", f"a divisor of the width, which is {width}, where no head_dim is given")
    head_dim = c.integer("head_dim", width // heads)
    if head_dim % 2:
        raise c.refused("head_dim" if c.has("head_dim") else "hidden_size", "an even number for each head")
    vocab, max_len = c.integer("vocab_size"), c.integer("max_position_embeddings", 2048)
    refuse_variations(c, head_dim, max_len)
    turning = rope(c)
    if turning.divisors and len(turning.divisors) != head_dim // 2:
        raise c.refused("rope_scaling", f"{head_dim // 2} divisors of frequency, one for each pair of a head")
    bias = c.boolean("attention_bias")
    attn = Attn(heads, kv_heads, head_dim, turning, qkv_bias=bias, out_bias=c.boolean("output_bias", bias))
    norm = Norm(c.number("rms_norm_eps", 1e-6))
    layer = Layer(attn, Mlp(c.integer("intermediate_size"), c.boolean("mlp_bias")), norm)
    bos = c.ids("bos_token_id", vocab)
    return ModelSpec(
        vocab=vocab,
        width=width,
        layers=(layer,) * c.integer("num_hidden_layers", high=LAYERS),
        norm=norm,
        tied=c.boolean("tie_word_embeddings"),
        max_len=max_len,
        eos_ids=end_ids(c, vocab),
        bos_id=bos[0] if bos else None,
    )


def refuse_variations(c: Settings, head_dim: int, max_len: int) -> None:
    """Raise for the mathematics that files under this name may ask for and that is not declared here."""
    c.only("hidden_act", "silu", "swish")
    c.only("num_local_experts", 0)
    c.only("value_head_dim", head_dim)
    c.only("rotary_dim", head_dim)
    window = c.value("sliding_window", max_len)
    if type(window) is not int or 0 < window < max_len:
        raise c.refused("sliding_window", f"none, or at least the context, which is {max_len}")
    kinds = c.value("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise c.refused("layer_types", "full_attention everywhere")


ARCHITECTURE = Architecture(
    names=("LlamaForCausalLM",),
    gguf=("llama",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=spec,
)
