"""Phi-3, 3.5 and Phi-4: Llama with fused projections, stretched by two lists of factors (longrope)."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, decoder, windows
from octavo.models.names import QKV, Architecture, gguf_like, llama_like, stacked
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    return decoder(c, qkv_bias=False, out_bias=False, sliding=windows(c, count), max_len=4096)


FUSED = stacked(*QKV, "gate", "up")
INNER = dict.fromkeys(QKV, "self_attn.qkv_proj") | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")
GGUF_INNER = dict.fromkeys(QKV, "attn_qkv") | dict.fromkeys(("gate", "up"), "ffn_up")
ARCHITECTURE = Architecture(
    names=("Phi3ForCausalLM",),
    gguf=("phi3",),
    tensors={"safetensors": llama_like(INNER, fused=FUSED), "gguf": gguf_like(GGUF_INNER, fused=FUSED)},
    spec=spec,
    title="Phi-3, Phi-3.5, Phi-4",
    notes="mini, medium, Phi-4 and Phi-4-mini as text",
)
