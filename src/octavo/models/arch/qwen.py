"""Qwen2 and 2.5: Llama with biases on queries, keys and values. Qwen3: none, but a norm of each head."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, decoder, windows
from octavo.models.names import GGUF, LLAMA, Architecture
from octavo.models.settings import Settings
from octavo.models.spec import HeadNorm, ModelSpec, Norm


def sliding(c: Settings) -> list[int]:
    """Windows where `use_sliding_window` says so: from layer `max_window_layers` on, or as `layer_types` has it."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    if not c.boolean("use_sliding_window"):
        return [0] * count
    if c.has("layer_types"):
        return windows(c, count)
    window, first = c.integer("sliding_window", 4096), c.integer("max_window_layers", 28, low=0)
    return [window if index >= first else 0 for index in range(count)]


def qwen2(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return decoder(c, qkv_bias=True, out_bias=False, sliding=sliding(c), max_len=32768)


def qwen3(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    c = c if c.has("head_dim") else c.over(head_dim=128)
    norm = HeadNorm(Norm(c.number("rms_norm_eps", 1e-6)))
    return decoder(c, head_norm=norm, sliding=sliding(c), max_len=32768)


QWEN2 = Architecture(
    names=("Qwen2ForCausalLM",),
    gguf=("qwen2",),
    tensors={"safetensors": LLAMA, "gguf": GGUF},
    spec=qwen2,
    title="Qwen2, Qwen2.5",
    notes="also QwQ and DeepSeek-R1 distilled into Qwen",
)
QWEN3 = Architecture(
    names=("Qwen3ForCausalLM",),
    gguf=("qwen3",),
    tensors={"safetensors": LLAMA, "gguf": GGUF},
    spec=qwen3,
    title="Qwen3",
)
