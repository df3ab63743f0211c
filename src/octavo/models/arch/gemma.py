"""Gemma 1, 2 and 3 (text): norms that add 1 to their weights, scaled embeddings, tanh-gelu; from 2 on norms after, too.

Gemma 2 caps scores and logits and slides on every other layer; Gemma 3 norms each head, slides on five layers of six,
and turns by another theta there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, activation, decoder, windows
from octavo.models.names import Architecture, gguf_like, llama_like
from octavo.models.rope_settings import rope_of_kind
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Layer, Mlp, ModelSpec, Norm

NORMS = ("attn_norm", "ffn_norm", "norm", "attn_post", "ffn_post", "q_norm", "k_norm")
INNER = {
    "attn_post": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post": "post_feedforward_layernorm",
}
PICTURES = (r"(model\\.)?(vision_tower|multi_modal_projector)\\..*",)  # of a model that sees, whose text is read


def gemma(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c = c if c.has("head_dim") else c.over(head_dim=256)
    # Files of the first release say "gelu" where the model was made with its approximation by tanh.
    function = "gelu_tanh" if c.value("hidden_act") == "gelu" else activation(c, "gelu_pytorch_tanh")
    if c.has("hidden_activation"):
        function = activation(c, name="hidden_activation")
    ffn = Mlp(c.integer("intermediate_size"), False, function)
    return decoder(c, ffn=ffn, max_len=8192, embed_scale=_embed_scale(c), tied=c.boolean("tie_word_embeddings", True))


def gemma2(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return _second(c, every=2, default_window=4096)


def gemma3(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    if c.has("text_config"):
        text, ids = c.section("text_config"), ("eos_token_id", "generation_eos_token_id", "bos_token_id")
        c = text.over(**{name: c.value(name) for name in ids if c.has(name)})
    every = c.integer("_sliding_window_pattern", c.integer("sliding_window_pattern", 6))
    return _second(c, every=every, default_window=4096, third=True)


def _second(c: Settings, *, every: int, default_window: int, third: bool = False) -> ModelSpec:
    """Gemma 2 or 3: of `every` layers the last one sees all."""
    c = c if c.has("head_dim") else c.over(head_dim=256)
    count = c.integer("num_hidden_layers", high=LAYERS)
    norm = Norm(c.number("rms_norm_eps", 1e-6))
    if c.has("layer_types"):
        sliding = windows(c, count, default_window)
    else:
        window = c.integer("sliding_window", default_window)
        sliding = [0 if (index + 1) % every == 0 else window for index in range(count)]
    local = c
    if not c.section("rope_parameters").has("sliding_attention"):
        theta = c.number("rope_local_base_freq", 1e4)
        local = c.over(rope_theta=theta, rope_parameters=None, rope_scaling=None)
    scale = c.number("query_pre_attn_scalar", 256) ** -0.5
    cap = c.number("attn_logit_softcapping", 0 if third else 50.0, low=0)

    def change(index: int, layer: Layer) -> Layer:
        attn = replace(layer.attn, scale=scale, soft_cap=cap)
        if third and sliding[index]:
            attn = replace(attn, rope=rope_of_kind(local, "sliding_attention", attn.head_dim))
        return replace(layer, mixer=attn, post=norm)

    return decoder(
        c,
        norm=norm,
        head_norm=HeadNorm(norm) if third else None,
        ffn=Mlp(c.integer("intermediate_size"), False, activation(c, "gelu_pytorch_tanh", name="hidden_activation")),
        turning=lambda c, dim: rope_of_kind(c, "full_attention", dim, theta=1e6 if third else 1e4),
        change=change,
        sliding=sliding,
        max_len=131072 if third else 8192,
        embed_scale=_embed_scale(c),
        soft_cap=c.number("final_logit_softcapping", 0 if third else 30.0, low=0),
        tied=c.boolean("tie_word_embeddings", True),
    )


def _scalar(c: Settings, source: Source) -> dict[str, Any]:
    """What a GGUF file leaves to its reader: of the 27B ones queries are scaled by the width, not by the head."""
    if c.value("num_hidden_layers") in (46, 62):
        return {"query_pre_attn_scalar": c.integer("hidden_size") // c.integer("num_attention_heads")}
    return {"query_pre_attn_scalar": c.integer("head_dim", 256)}


def _embed_scale(c: Settings) -> float:
    return float(c.integer("hidden_size") ** 0.5)


TEXT3 = llama_like(
    INNER, plus_one=NORMS, prefixes=("model.", "language_model.model.", "model.language_model.", ""), harmless=PICTURES
)
GEMMA = Architecture(
    names=("GemmaForCausalLM",),
    gguf=("gemma",),
    tensors={"safetensors": llama_like(plus_one=NORMS), "gguf": gguf_like()},
    spec=gemma,
    title="Gemma",
)
GEMMA2 = Architecture(
    names=("Gemma2ForCausalLM",),
    gguf=("gemma2",),
    tensors={"safetensors": llama_like(INNER, plus_one=NORMS), "gguf": gguf_like()},
    spec=gemma2,
    title="Gemma 2",
    more=_scalar,
)
GEMMA3 = Architecture(
    names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    gguf=("gemma3",),
    tensors={"safetensors": TEXT3, "gguf": gguf_like()},
    spec=gemma3,
    title="Gemma 3",
    more=_scalar,
    notes="text; of models that see, the text part",
)
