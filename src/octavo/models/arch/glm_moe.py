"""GLM-4.5 and 4.6: Llama with half a rotation, and behind the first layers mixtures with shared experts.

Experts are chosen as DeepSeek-V3 has it: by a sigmoid with a correction, from the best of their groups.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, activation, decoder, experts_of
from octavo.models.names import Architecture, experts_like, gguf_like, llama_like
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, Layer, Mlp, ModelSpec, Moe, Norm

SIGMOID = 2  # a GGUF file's expert_gating_func


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("expert_gating_func", SIGMOID)
    moe = mixture(c.over(num_local_experts=c.value("n_routed_experts", c.value("num_local_experts"))))
    first = c.integer("first_k_dense_replace", 1, low=0, high=LAYERS)

    def change(index: int, layer: Layer) -> Layer:
        return layer if index < first else replace(layer, ffn=moe)

    norm = Norm(c.number("rms_norm_eps", 1e-5))
    return decoder(
        c.over(num_local_experts=None),
        norm=norm,
        out_bias=False,
        head_norm=HeadNorm(norm) if c.boolean("use_qk_norm") else None,
        turning=lambda c, dim: rope(c, dim, partial=0.5),
        change=change,
        max_len=131072,
    )


def mixture(c: Settings) -> Moe:
    """The experts of a layer that has them, the shared ones joined to one."""
    count, top = experts_of(c)
    groups = c.integer("n_group", 1, high=count)
    taken = c.integer("topk_group", 1, high=groups)
    size = count // groups
    if size * groups != count or (groups > 1 and size < 2):
        raise c.refused("n_group", f"a number of equal groups of two or more of {count} experts")
    if top > size * taken:
        raise c.refused("topk_group", f"groups that hold {top} experts, of {size} each")
    inner, function = c.integer("moe_intermediate_size"), activation(c, "silu")
    shared = c.integer("n_shared_experts", 1, low=0) * inner
    return Moe(
        count,
        top,
        inner,
        activation=function,
        scoring="sigmoid",
        renormalise=c.boolean("norm_topk_prob", True),
        scale=c.number("routed_scaling_factor", 1.0),
        correction=True,
        groups=groups,
        top_groups=taken,
        group_top=min(2, size),
        shared=Mlp(shared, False, function) if shared else None,
    )


def _layers(c: Settings, source: Source) -> dict[str, Any]:
    """GGUF counts the layers that predict more than one token among the others."""
    ahead = c.integer("num_nextn_predict_layers", 0, low=0)
    return {
        "num_hidden_layers": c.integer("num_hidden_layers", low=ahead + 1) - ahead,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in source.tensors,
    }


# What predicts more than one token, behind the last layer of Air and of the full model.
AHEAD = r"(46|92)\..*"
GGUF = gguf_like({"ffn_norm": "post_attention_norm"})
ARCHITECTURE = Architecture(
    names=("Glm4MoeForCausalLM",),
    gguf=("glm4moe",),
    tensors={
        "safetensors": llama_like(
            {part: f"mlp.{part}_proj|mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
            harmless=(r"model\.layers\." + AHEAD,),
            whole=experts_like("mlp") | {"correction": "mlp.gate.e_score_correction_bias"},
        ),
        "gguf": replace(
            GGUF,
            names={**GGUF.names, "layers.{i}.correction": "blk.{i}.exp_probs_b.bias"},
            harmless=(*GGUF.harmless, r"blk\." + AHEAD),
        ),
    },
    spec=spec,
    title="GLM-4.5, GLM-4.6",
    notes="Air and full, as text, one token at a time",
    more=_layers,
)
