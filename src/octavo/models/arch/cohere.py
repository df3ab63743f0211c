"""Command-R and Command-R7B: both halves side by side after one layer norm, rotation of neighbours, scaled logits.

Cohere 2 slides on three layers of four and turns only there.
"""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import LAYERS, activation, decoder, windows
from octavo.models.names import Architecture, gguf_like, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Layer, Mlp, ModelSpec, Norm


def cohere(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    norm = Norm(c.number("layer_norm_eps", 1e-5), "layer")
    head_norm = HeadNorm(norm, "none") if c.boolean("use_qk_norm") else None
    return _cohere(c, norm, head_norm, [0] * c.integer("num_hidden_layers", high=LAYERS), turns_all=True)


def cohere2(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("use_qk_norm", False)
    count = c.integer("num_hidden_layers", high=LAYERS)
    if c.has("layer_types"):
        sliding = windows(c, count, 4096)
    else:
        every, window = c.integer("sliding_window_pattern", 4), c.integer("sliding_window", 4096)
        sliding = [0 if (index + 1) % every == 0 else window for index in range(count)]
    norm = Norm(c.number("layer_norm_eps", 1e-5), "layer")
    return _cohere(c, norm, None, sliding, turns_all=False)


def _cohere(c: Settings, norm: Norm, head_norm: HeadNorm | None, sliding: list[int], *, turns_all: bool) -> ModelSpec:
    def change(index: int, layer: Layer) -> Layer:
        turned = layer.attn.rope if turns_all or sliding[index] else None
        return replace(layer, mixer=replace(layer.attn, rope=turned), parallel=True, shared=True)

    return decoder(
        c,
        norm=norm,
        head_norm=head_norm,
        ffn=Mlp(c.integer("intermediate_size"), False, activation(c, "silu")),
        change=change,
        sliding=sliding,
        max_len=8192,
        logit_scale=c.number("logit_scale", 0.0625),
        tied=c.boolean("tie_word_embeddings", True),
    )


COHERE = Architecture(
    names=("CohereForCausalLM",),
    gguf=("command-r",),
    tensors={"safetensors": llama_like(interleaved=True), "gguf": gguf_like(interleaved=True)},
    spec=cohere,
    title="Command-R",
    more=lambda c, source: {"use_qk_norm": "blk.0.attn_q_norm.weight" in source.tensors},
    notes="also Aya 23 and Aya Expanse",
)
COHERE2 = Architecture(
    names=("Cohere2ForCausalLM",),
    gguf=("cohere2",),
    tensors={"safetensors": llama_like(interleaved=True), "gguf": gguf_like(interleaved=True)},
    spec=cohere2,
    title="Command-R7B, Command-A",
)
