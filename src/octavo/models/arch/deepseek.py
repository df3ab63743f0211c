"""DeepSeek-V2 and V3: one latent key for all heads, and behind the first layers mixtures with shared experts.

V2 chooses experts by a softmax, V3 by a sigmoid with a correction; both from the best of their groups.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch import glm_moe
from octavo.models.arch.llama import LAYERS, activation, experts_of, whole
from octavo.models.names import Architecture, experts_like, gguf_like, llama_like, stacked
from octavo.models.rope_settings import mscale, reach, rope
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Latent, Layer, Mlp, ModelSpec, Moe, Norm

DIMS = 2**16  # most dims of anything within a head
SOFTMAX, SIGMOID = 1, 2  # a GGUF file's expert_gating_func


def v2(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("scoring_func", "softmax")
    c.only("norm_topk_prob", False)
    return decoder(c, v2_mixture(c), first=0)


def v3(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("scoring_func", "sigmoid")
    c.only("topk_method", "noaux_tc")
    c.only("index_topk")  # V3.2 sees the keys that another network picks
    defaults = {"n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4}
    c = c.over(**{name: c.value(name, default) for name, default in defaults.items()})
    experts = c.over(
        num_local_experts=c.value("n_routed_experts"),
        routed_scaling_factor=c.value("routed_scaling_factor", 2.5),
    )
    return decoder(c, glm_moe.mixture(experts), first=3)


def v2_mixture(c: Settings) -> Moe:
    """The experts of a layer that has them, the shared ones joined to one."""
    count, top = experts_of(c.over(num_local_experts=c.integer("n_routed_experts", 64)))
    groups, taken = 1, 1
    if c.word("topk_method", "greedy", "group_limited_greedy", default="greedy") != "greedy":
        groups = c.integer("n_group", high=count)
        taken = c.integer("topk_group", high=groups)
        if count % groups:
            raise c.refused("n_group", f"a divisor of {count} experts")
        if top > count // groups * taken:
            raise c.refused("topk_group", f"groups that hold {top} experts, of {count // groups} each")
    inner, function = c.integer("moe_intermediate_size", 1407), activation(c, "silu")
    shared = c.integer("n_shared_experts", 2, low=0) * inner
    return Moe(
        count,
        top,
        inner,
        activation=function,
        scale=c.number("routed_scaling_factor", 1.0),
        groups=groups,
        top_groups=taken,
        shared=Mlp(shared, False, function) if shared else None,
    )


def either(c: Settings) -> ModelSpec:
    """V2, or of a GGUF file the one that its experts are chosen as. Raises ModelError."""
    c.only("expert_gating_func", SOFTMAX, SIGMOID)
    return v3(c) if c.value("expert_gating_func") == SIGMOID else v2(c)


def gguf_words(c: Settings, source: Source) -> dict[str, Any]:
    """What a GGUF file says in words of its own, or by leaving it out.

    Files before the keys were kept as one latent vector (2025-04) give the dims of a head as key and value length. The
    multiplier of YaRN's logarithm is a tenth of mscale_all_dim; mscale is always the same.
    """
    key = "qk_head_dim" if c.has("qk_head_dim") else "head_dim"
    turned = c.integer("rotary_dim", low=2, high=DIMS)
    words = {
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": c.integer(key, low=turned + 1, high=DIMS + turned) - turned,
        "v_head_dim": c.value("v_head_dim", c.value("value_head_dim")),
        "attention_bias": "blk.0.attn_kv_a_mqa.bias" in source.tensors,
        "topk_method": None if c.value("expert_gating_func") == SIGMOID else "group_limited_greedy",
    }
    absent: dict[str, Any] = {"norm_topk_prob": False, "n_group": 1, "topk_group": 1}
    absent |= {"n_shared_experts": 0, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0}
    scaling = c.section("rope_scaling")
    weight = 10 * scaling.number("log_multiplier", 0.0, low=0)
    still = {"attention_factor": scaling.value("attention_factor", 1.0)}
    sharper = {"mscale": weight, "mscale_all_dim": weight} if weight else still
    words["rope_scaling"] = {**c.value("rope_scaling"), **sharper}
    return words | {name: c.value(name, value) for name, value in absent.items()}


def decoder(c: Settings, moe: Moe, first: int) -> ModelSpec:
    """Layers of latent attention. first: how many of them have no experts, where the settings do not say."""
    c.only("moe_layer_freq", 1)
    c.only("rope_interleave", True)
    c.only("temperature_scale", 0, 0.0)  # of queries far behind, as Mistral's files of this architecture have it
    norm = Norm(c.number("rms_norm_eps", 1e-6))
    attn = attention(c, norm)
    dense = Mlp(c.integer("intermediate_size"), c.boolean("mlp_bias"), activation(c, "silu"))
    count = c.integer("num_hidden_layers", high=LAYERS)
    plain = c.integer("first_k_dense_replace", first, low=0, high=LAYERS)
    layers = [Layer(attn, dense if index < plain else moe, norm) for index in range(count)]
    return whole(c, layers, c.integer("hidden_size"), norm, max_len=reach(c, attn.rope))


def attention(c: Settings, norm: Norm) -> Attn:
    """The latent attention of all layers."""
    heads = c.integer("num_attention_heads")
    turned = c.integer("qk_rope_head_dim", 64, low=2, high=DIMS)
    if turned % 2:
        raise c.refused("qk_rope_head_dim", "an even number")
    latent = Latent(
        _panels(c, "kv_lora_rank", 512),
        _panels(c, "qk_nope_head_dim", 128),
        _panels(c, "v_head_dim", 128),
        c.integer("q_lora_rank", None) if c.has("q_lora_rank") else 0,
        norm,
    )
    bias, turns = c.boolean("attention_bias"), rope(c, turned)
    scaling = c.section("rope_parameters" if c.has("rope_parameters") else "rope_scaling")
    sharper = mscale(turns.factor, scaling.number("mscale_all_dim", 0.0, low=0))
    scale = (latent.plain + turned) ** -0.5 * sharper**2
    return Attn(heads, 1, latent.rank + turned, turns, bias, bias, scale, latent=latent)


def _panels(c: Settings, name: str, default: int) -> int:
    """A number of dims that the kernels take: whole panels of 32."""
    dims = c.integer(name, default, high=DIMS)
    if dims % 32:
        raise c.refused(name, "a multiple of 32")
    return dims


TENSORS = llama_like(
    {part: f"mlp.{part}_proj|mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")}
    | {"q_a": "self_attn.q_a_proj", "q_a_norm": "self_attn.q_a_layernorm", "q_b": "self_attn.q_b_proj"}
    | {"kv_a": "self_attn.kv_a_proj_with_mqa", "kv_a_norm": "self_attn.kv_a_layernorm"}
    | {"k_b": "self_attn.kv_b_proj", "v_b": "self_attn.kv_b_proj"},
    interleaved=True,
    fused=stacked("k_b", "v_b"),
    harmless=(r"model\.layers\.61\..*",),  # what predicts more than one token, behind the last layer
    whole=experts_like("mlp") | {"correction": "mlp.gate.e_score_correction_bias"},
)
GGUF = gguf_like(
    {"q_a": "attn_q_a", "q_a_norm": "attn_q_a_norm", "q_b": "attn_q_b"}
    | {"kv_a": "attn_kv_a_mqa", "kv_a_norm": "attn_kv_a_norm"}
    | {"k_b": "attn_k_b|attn_kv_b", "v_b": "attn_v_b|attn_kv_b"},
    interleaved=True,
    fused=stacked("k_b", "v_b"),
)
GGUF = replace(
    GGUF,
    names={**GGUF.names, "layers.{i}.correction": "blk.{i}.exp_probs_b.bias"},
    harmless=(*GGUF.harmless, r"blk\.\d+\.attn_kv_b\.weight"),  # beside its two halves
)
V2 = Architecture(
    names=("DeepseekV2ForCausalLM",),
    gguf=("deepseek2",),
    tensors={"safetensors": TENSORS, "gguf": GGUF},
    spec=either,
    words={"num_local_experts": "n_routed_experts"},
    more=gguf_words,
    title="DeepSeek-V2",
    notes="also V2-Lite, V2.5, Coder-V2; GGUF files of V3 are of this architecture too",
)
V3 = Architecture(
    names=("DeepseekV3ForCausalLM",),
    gguf=(),
    tensors={"safetensors": TENSORS},
    spec=v3,
    title="DeepSeek-V3",
    notes="also R1, V3.1; one token at a time, and not V3.2, which attends to picked keys",
)
