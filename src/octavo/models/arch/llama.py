"""Llama: RMS norms before attention and feed-forward, rotary positions, grouped heads, gated silu feed-forward.

Owns what its many relatives share: `decoder` makes a ModelSpec from settings in Llama's words, with what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from octavo.models.names import LLAMA, LLAMA_GGUF, Architecture
from octavo.models.rope_settings import reach, rope
from octavo.models.settings import Settings, end_ids
from octavo.models.spec import Attn, HeadNorm, Layer, Mlp, ModelSpec, Moe, Norm, Rope

LAYERS = 10_000  # most layers believed
EXPERTS = 10_000  # and most experts
# What config.json calls an activation -> ours
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
Change = Callable[[int, Layer], Layer]


def heads_of(c: Settings, width: int, *, heads: str = "num_attention_heads") -> tuple[int, int, int]:
    """How many heads, key heads, and dims of a head. Raises ModelError."""
    count = c.integer(heads)
    kv_heads = c.integer("num_key_value_heads", count)
    if count % kv_heads:
        raise c.refused("num_key_value_heads", f"a divisor of the number of heads, which is {count}")
    if width % count and not c.has("head_dim"):
        raise c.refused(heads, f"a divisor of the width, which is {width}, where no head_dim is given")
    head_dim = c.integer("head_dim", width // count, high=2**16)
    if head_dim % 2:
        raise c.refused("head_dim" if c.has("head_dim") else "hidden_size", "an even number for each head")
    return count, kv_heads, head_dim


def activation(c: Settings, default: str | None = None, *, name: str = "hidden_act") -> str:
    """Our name of the activation function. Raises ModelError."""
    return ACTIVATIONS[c.word(name, *ACTIVATIONS, default=default)]


def windows(c: Settings, layers: int, default: int = 0) -> list[int]:
    """The window of each layer: `sliding_window`, on the layers of `layer_types` that slide. 0: none"""
    window = c.integer("sliding_window", default, low=0)
    if not c.has("layer_types"):
        return [window] * layers
    kinds = c.each("layer_types", layers, "full_attention", "sliding_attention")
    if "sliding_attention" in kinds and not window:
        raise c.refused("sliding_window", "an integer above 0, since some layers slide")
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def experts_of(c: Settings) -> tuple[int, int]:
    """How many experts a layer has, and how many of them a token goes to. Raises ModelError."""
    count = c.integer("num_experts" if c.has("num_experts") else "num_local_experts", high=EXPERTS)
    return count, c.integer("num_experts_per_tok", high=count)


def refuse_variations(c: Settings, head_dim: int, *names: str) -> None:
    """Raise for the mathematics that files may ask for and that is declared nowhere: `names` beside the usual ones."""
    c.only("causal", True)
    c.only("num_local_experts", 0)
    c.only("value_head_dim", head_dim)
    for name in names:
        c.only(name)


def whole(c: Settings, layers: list[Layer], width: int, norm: Norm, **fields: Any) -> ModelSpec:
    """A ModelSpec of these layers: what is not in `fields` is read by its usual name."""
    vocab = c.integer("vocab_size")
    bos = c.ids("bos_token_id", vocab)
    given: dict[str, Any] = {
        "vocab": vocab,
        "width": width,
        "layers": tuple(layers),
        "norm": norm,
        "eos_ids": end_ids(c, vocab),
        "bos_id": bos[0] if bos else None,
    }
    tied = {} if "tied" in fields else {"tied": c.boolean("tie_word_embeddings")}
    return ModelSpec(**given | tied | fields)


def decoder(
    c: Settings,
    *,
    norm: Norm | None = None,
    qkv_bias: bool | None = None,
    out_bias: bool | None = None,
    head_norm: HeadNorm | None = None,
    ffn: Mlp | Moe | None = None,
    turning: Callable[[Settings, int], Rope | None] = rope,
    change: Change = lambda index, layer: layer,
    sliding: list[int] | None = None,
    max_len: int = 2048,
    **fields: Any,
) -> ModelSpec:
    """The decoder that settings in Llama's words describe; what is given is not read. Raises ModelError.

    `change` makes each layer of the usual one, `sliding` are their windows, `fields` are those of the ModelSpec.
    """
    width = c.integer("hidden_size")
    heads, kv_heads, head_dim = heads_of(c, width)
    count = c.integer("num_hidden_layers", high=LAYERS)
    refuse_variations(c, head_dim)
    turned = turning(c, head_dim)
    bias = c.boolean("attention_bias") if qkv_bias is None else qkv_bias
    out = c.boolean("output_bias", bias) if out_bias is None else out_bias
    attn = Attn(heads, kv_heads, head_dim, turned, qkv_bias=bias, out_bias=out, head_norm=head_norm)
    norm = norm or Norm(c.number("rms_norm_eps", 1e-6))
    if ffn is None:
        ffn = Mlp(c.integer("intermediate_size"), c.boolean("mlp_bias"), activation(c, "silu"))
    reached = reach(c, turned, max_len)
    layers = []
    for index in range(count):
        window = sliding[index] if sliding else 0
        one = replace(attn, window=0 if window >= reached else window)
        layers.append(change(index, Layer(one, ffn, norm)))
    fields = {"max_len": reached} | fields
    return whole(c, layers, width, fields.pop("last", norm), **fields)


def spec(c: Settings) -> ModelSpec:
    """The model that these settings describe. Raises ModelError for what is malformed or not supported.

    `mistral_window` is that of a GGUF file; transformers' Llama has none and looks past the word for it.
    """
    c.only("partial_rotary_factor", 1, 1.0)
    ffn = None
    if c.integer("num_local_experts", 0, low=0):  # Mixtral as GGUF
        ffn = Moe(*experts_of(c), c.integer("intermediate_size"), renormalise=True)
    sliding = [c.integer("mistral_window", 0, low=0)] * c.integer("num_hidden_layers", high=LAYERS)
    made = decoder(c.over(num_local_experts=None), ffn=ffn, sliding=sliding)
    turned, head_dim = made.layers[0].attn.rope, made.layers[0].attn.head_dim
    if turned and turned.dims:
        name = "rotary_dim" if c.has("rotary_dim") else "rope_parameters"
        raise c.refused(name, f"{head_dim}, all dims of a head")
    window = made.max_len if c.has("mistral_window") else c.value("sliding_window", made.max_len)
    if type(window) is not int or 0 < window < made.max_len:
        raise c.refused("sliding_window", f"none, or at least the context, which is {made.max_len}")
    kinds = c.value("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise c.refused("layer_types", "full_attention everywhere")
    return made


ARCHITECTURE = Architecture(
    names=("LlamaForCausalLM", "LLaMAForCausalLM", "YiForCausalLM"),
    gguf=("llama",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=spec,
    title="Llama 1 to 3.x",
    notes="also Yi, SmolLM2, TinyLlama, Vicuna, DeepSeek-LLM, older Mistral and Mixtral as GGUF",
    words={"sliding_window": "mistral_window"},
)
