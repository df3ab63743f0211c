"""InternLM2: Llama whose projections are fused, group by group."""

from __future__ import annotations

from octavo.models.arch.llama import decoder
from octavo.models.names import LLAMA_GGUF, QKV, Architecture, Tensors, names_of, stacked
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    bias = c.boolean("bias", c.boolean("attention_bias"))
    return decoder(c, qkv_bias=bias, out_bias=bias)


OUTER = {"embed": "model.tok_embeddings.weight", "norm": "model.norm.weight", "head": "output.weight"}
INNER = {
    "attn_norm": "attention_norm",
    "o": "attention.wo",
    "ffn_norm": "ffn_norm",
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
} | dict.fromkeys(QKV, "attention.wqkv")
ARCHITECTURE = Architecture(
    names=("InternLM2ForCausalLM",),
    gguf=("internlm2",),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "model.layers.{i}.", INNER),
            harmless=(r"model\.layers\.\d+\.attention\.rotary_emb\.inv_freq", r"output\.weight"),
            fused=stacked(*QKV, how="grouped"),
        ),
        "gguf": LLAMA_GGUF,
    },
    spec=spec,
    title="InternLM2",
    notes="also InternLM2.5",
)
