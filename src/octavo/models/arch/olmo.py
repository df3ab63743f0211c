"""OLMo: layer norms without weights. OLMo 2: norms behind both halves and of all heads together. OLMo 3: windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.arch.llama import LAYERS, decoder, windows
from octavo.models.names import GGUF, LLAMA, LLAMA_GGUF, Architecture, llama_like
from octavo.models.rope_settings import rope_of_kind
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Layer, ModelSpec, Norm


def olmo(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    clip = c.number("clip_qkv", 0.0, low=0)
    return decoder(
        c,
        norm=Norm(1e-5, "layer", weight=False),
        change=lambda index, layer: replace(layer, mixer=replace(layer.attn, clip=clip)),
    )


def olmo2(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported. OLMo 3 is of the same name as GGUF."""
    if c.boolean("slides"):
        return olmo3(c)
    return _behind(c, [0] * c.integer("num_hidden_layers", high=LAYERS))


def olmo3(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    if c.has("layer_types"):
        return _behind(c, windows(c, count, 4096))
    window = c.integer("sliding_window", 4096)
    return _behind(c, [0 if (index + 1) % 4 == 0 else window for index in range(count)])


def _behind(c: Settings, sliding: list[int]) -> ModelSpec:
    """No norm before a half, one behind it; layers that slide turn without scaling."""
    norm = Norm(c.number("rms_norm_eps", 1e-5))
    local = c
    if not c.section("rope_parameters").has("sliding_attention"):
        theta = c.section("rope_parameters").value("rope_theta", c.value("rope_theta"))
        local = c.over(rope_theta=theta, rope_parameters=None, rope_scaling=None)

    def change(index: int, layer: Layer) -> Layer:
        if sliding[index]:
            turned = rope_of_kind(local, "sliding_attention", layer.attn.head_dim)
            layer = replace(layer, mixer=replace(layer.attn, rope=turned))
        return replace(layer, norm=Norm(kind="none"), post=norm)

    return decoder(
        c,
        norm=norm,
        head_norm=HeadNorm(norm, "whole"),
        turning=lambda c, dim: rope_of_kind(c, "full_attention", dim),
        change=change,
        sliding=sliding,
    )


def _windows(c: Settings, source: Source) -> dict[str, Any]:
    """Whether a GGUF file is of OLMo 3, and which of its layers slide; without a word, all but every fourth."""
    key = "olmo2.attention.sliding_window_pattern"
    found = source.metadata.get(key)
    if found is not None and not isinstance(found, list):
        raise ModelError(f"{source.path}: {key} {found!r}; expected an array, whether each layer slides")
    kinds = found and ["sliding_attention" if slides else "full_attention" for slides in found]
    return {"slides": bool(c.integer("sliding_window", 0, low=0)), "layer_types": kinds}


BEHIND = llama_like({"attn_post": "post_attention_layernorm", "ffn_post": "post_feedforward_layernorm"})
OLMO = Architecture(
    names=("OlmoForCausalLM",),
    gguf=("olmo",),
    tensors={"safetensors": LLAMA, "gguf": LLAMA_GGUF},
    spec=olmo,
    title="OLMo",
)
OLMO2 = Architecture(
    names=("Olmo2ForCausalLM",),
    gguf=("olmo2",),
    tensors={"safetensors": BEHIND, "gguf": GGUF},
    spec=olmo2,
    title="OLMo 2",
    more=_windows,
)
OLMO3 = Architecture(
    names=("Olmo3ForCausalLM",),
    gguf=(),
    tensors={"safetensors": BEHIND},
    spec=olmo3,
    title="OLMo 3",
    notes="GGUF files are of the architecture olmo2",
)
