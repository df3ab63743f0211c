"""GLM-4: Llama with half a rotation of neighbouring dims and a fused gate; of April 2025 with norms after, too."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import decoder
from octavo.models.names import Architecture, gguf_like, llama_like, stacked
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec, Norm


def glm(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return _glm(c, None)


def glm4(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return _glm(c, Norm(c.number("rms_norm_eps", 1.5625e-7)))


def _glm(c: Settings, post: Norm | None) -> ModelSpec:
    return decoder(
        c if c.has("head_dim") else c.over(head_dim=128),
        norm=Norm(c.number("rms_norm_eps", 1.5625e-7)),
        out_bias=False,
        turning=lambda c, dim: rope(c, dim, partial=0.5),
        change=lambda index, layer: replace(layer, post=post),
        max_len=131072,
    )


FUSED = stacked("gate", "up")
INNER = dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")
POSTS = {"attn_post": "post_self_attn_layernorm", "ffn_post": "post_mlp_layernorm"}
GLM = Architecture(
    names=("GlmForCausalLM",),
    gguf=(),
    tensors={"safetensors": llama_like(INNER, interleaved=True, fused=FUSED)},
    spec=glm,
    title="GLM-4 (transformers' form of 2024)",
    notes="GLM-4-9B and GLM-Edge as transformers ships them",
)
GLM4 = Architecture(
    names=("Glm4ForCausalLM",),
    gguf=("glm4",),
    tensors={
        "safetensors": llama_like(INNER | POSTS, interleaved=True, fused=FUSED),
        "gguf": gguf_like(dict.fromkeys(("gate", "up"), "ffn_up"), interleaved=True, fused=FUSED),
    },
    spec=glm4,
    title="GLM-4-0414",
    notes="9B and 32B, also GLM-Z1",
)
