"""OLMoE: Llama with a mixture of experts on every layer, and norms of all queries and of all keys together."""

from __future__ import annotations

from octavo.models.arch.llama import activation, decoder, experts_of
from octavo.models.names import GGUF, Architecture, experts_like, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, ModelSpec, Moe, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c.only("clip_qkv")  # it would be clamped behind the norm
    norm = Norm(c.number("rms_norm_eps", 1e-5))
    inner, function = c.integer("intermediate_size"), activation(c, "silu")
    moe = Moe(*experts_of(c), inner, activation=function, renormalise=c.boolean("norm_topk_prob"))
    plain = c.over(num_local_experts=None)
    return decoder(plain, norm=norm, head_norm=HeadNorm(norm, "whole"), ffn=moe, max_len=4096)


ARCHITECTURE = Architecture(
    names=("OlmoeForCausalLM",),
    gguf=("olmoe",),
    tensors={"safetensors": llama_like(whole=experts_like("mlp")), "gguf": GGUF},
    spec=spec,
    title="OLMoE",
)
