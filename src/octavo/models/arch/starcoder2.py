"""StarCoder2: layer norms and biases, a feed-forward without gate, sliding windows."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, activation, decoder, windows
from octavo.models.names import GGUF, Architecture, llama_like
from octavo.models.settings import Settings
from octavo.models.spec import Mlp, ModelSpec, Norm


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    bias = c.boolean("use_bias", True)
    return decoder(
        c,
        norm=Norm(c.number("norm_epsilon", 1e-5), "layer", bias=True),
        qkv_bias=bias,
        out_bias=bias,
        ffn=Mlp(c.integer("intermediate_size"), bias, activation(c, "gelu_pytorch_tanh"), gated=False),
        sliding=windows(c, c.integer("num_hidden_layers", high=LAYERS)),
        tied=c.boolean("tie_word_embeddings", True),
    )


ARCHITECTURE = Architecture(
    names=("Starcoder2ForCausalLM",),
    gguf=("starcoder2",),
    tensors={"safetensors": llama_like({"up": "mlp.c_fc", "down": "mlp.c_proj"}), "gguf": GGUF},
    spec=spec,
    title="StarCoder2",
    words={"layer_norm_eps": "norm_epsilon"},
)
