"""GPT-NeoX and Pythia: attention and feed-forward side by side after norms of their own, a quarter of a rotation."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import activation, decoder
from octavo.models.names import GGUF, LLAMA_OUTER, QKV, Architecture, Tensors, names_of, stacked
from octavo.models.rope_settings import rope
from octavo.models.settings import Settings
from octavo.models.spec import Mlp, ModelSpec, Norm, Rope


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    parallel, bias = c.boolean("use_parallel_residual", True), c.boolean("attention_bias", True)
    return decoder(
        c,
        norm=Norm(c.number("layer_norm_eps", 1e-5), "layer", bias=True),
        qkv_bias=bias,
        out_bias=bias,
        ffn=Mlp(c.integer("intermediate_size"), True, activation(c, "gelu"), gated=False),
        turning=turned,
        change=lambda index, layer: replace(layer, parallel=parallel),
    )


def turned(c: Settings, head_dim: int) -> Rope:
    """The rotation, of a share that was called rotary_pct, at a base that was called rotary_emb_base."""
    return rope(c, head_dim, partial=c.number("rotary_pct", 0.25), theta=c.number("rotary_emb_base", 10000.0))


OUTER = LLAMA_OUTER | {
    "embed": "gpt_neox.embed_in.weight",
    "norm": "gpt_neox.final_layer_norm.weight",
    "norm_bias": "gpt_neox.final_layer_norm.bias",
    "head": "embed_out.weight",
}
INNER = {
    "attn_norm": "input_layernorm",
    "o": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
} | dict.fromkeys(QKV, "attention.query_key_value")
ARCHITECTURE = Architecture(
    names=("GPTNeoXForCausalLM",),
    gguf=("gptneox",),
    tensors={
        "safetensors": Tensors(
            names=names_of(OUTER, "gpt_neox.layers.{i}.", INNER),
            harmless=(
                r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",
                r"gpt_neox\.rotary_emb\.inv_freq",
                r"embed_out\.weight",
            ),
            fused=stacked(*QKV, how="grouped"),
        ),
        "gguf": GGUF,
    },
    spec=spec,
    title="GPT-NeoX, Pythia",
    notes="also Dolly 2 and RedPajama-INCITE",
)
