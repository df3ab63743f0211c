"""gpt-oss: biases everywhere, sinks, windows on every other layer, experts whose two halves are clamped.

Folders have the rows of gate and up by turns; as its makers stored them (MXFP4) or as [experts, inputs, outputs].
"""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import LAYERS, decoder, experts_of, windows
from octavo.models.names import Architecture, gguf_like, llama_like
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec, Moe, Rope


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("hidden_act", "silu")
    c.only("swiglu_alpha", 1.702)
    count = c.integer("num_hidden_layers", high=LAYERS)
    window = c.integer("sliding_window", 128)
    sliding = windows(c, count, 128) if c.has("layer_types") else [window * (index % 2 == 0) for index in range(count)]
    inner = c.integer("moe_intermediate_size", c.integer("intermediate_size"))
    moe = Moe(
        *experts_of(c),
        inner,
        bias=True,
        activation="swiglu_oai",
        limit=c.number("swiglu_limit", 7.0),
        renormalise=True,
        router_bias=True,
    )
    return decoder(
        c.over(num_local_experts=None),
        qkv_bias=True,
        out_bias=True,
        ffn=moe,
        turning=turned,
        change=lambda index, layer: replace(layer, mixer=replace(layer.attn, sinks=True)),
        sliding=sliding,
        max_len=131072,
    )


def turned(c: Settings, head_dim: int) -> Rope:
    """The rotation; GGUF files do not say that the ends of YaRN's line are not rounded."""
    made = rope(c, head_dim, theta=150000.0)
    section = c.section("rope_parameters" if c.has("rope_parameters") else "rope_scaling")
    return made if section.has("truncate") else replace(made, truncate=False)


PARTS = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}
WHOLE = {
    "sinks": "self_attn.sinks",
    "router": "mlp.router.weight",
    "router_bias": "mlp.router.bias",
    **{f"expert_{part}": f"mlp.experts.{name}" for part, name in PARTS.items()},
    **{f"expert_{part}_bias": f"mlp.experts.{name}_bias" for part, name in PARTS.items()},
}
ARCHITECTURE = Architecture(
    names=("GptOssForCausalLM",),
    gguf=("gpt-oss",),
    tensors={
        "safetensors": llama_like(
            fused=dict.fromkeys(("expert_gate", "expert_up"), "alternating"),
            transposed=("expert_gate", "expert_up", "expert_down"),
            whole=WHOLE,
        ),
        "gguf": gguf_like({"ffn_norm": "post_attention_norm"}),
    },
    spec=spec,
    title="gpt-oss",
    notes="20b and 120b",
)
