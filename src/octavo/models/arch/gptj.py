"""GPT-J: attention and feed-forward side by side after one norm, rotation of neighbouring dims."""

from __future__ import annotations

from dataclasses import replace

from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.names import Architecture, Tensors, names_of
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Layer, Mlp, ModelSpec, Norm, Rope


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    width, heads = c.integer("n_embd"), c.integer("n_head")
    if width % (2 * heads):
        raise c.refused("n_head", f"a divisor of half the width, which is {width}")
    head_dim = width // heads
    dims = c.integer("rotary_dim", 64, high=head_dim)
    if dims % 2:
        raise c.refused("rotary_dim", "an even number")
    norm = Norm(c.number("layer_norm_epsilon", 1e-5), "layer", bias=True)
    attn = Attn(heads, heads, head_dim, Rope(dims=0 if dims == head_dim else dims))
    ffn = Mlp(c.integer("n_inner", 4 * width), True, activation(c, "gelu_new", name="activation_function"), gated=False)
    layer = replace(Layer(attn, ffn, norm), parallel=True, shared=True)
    layers = [layer] * c.integer("n_layer", high=LAYERS)
    return whole(c, layers, width, norm, max_len=c.integer("n_positions", 2048), head_bias=True)


OUTER = {
    "embed": "{p}wte.weight",
    "norm": "{p}ln_f.weight",
    "norm_bias": "{p}ln_f.bias",
    "head": "lm_head.weight",
    "head_bias": "lm_head.bias",
}
INNER = {
    "attn_norm": "ln_1",
    "q": "attn.q_proj",
    "k": "attn.k_proj",
    "v": "attn.v_proj",
    "o": "attn.out_proj",
    "up": "mlp.fc_in",
    "down": "mlp.fc_out",
}
HARMLESS = (r"(transformer\.)?h\.\d+\.attn\.((masked_)?bias|embed_positions)", r"lm_head\.weight")
ARCHITECTURE = Architecture(
    names=("GPTJForCausalLM",),
    gguf=(),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}h.{i}.", INNER), HARMLESS, interleaved=True, prefixes=("transformer.", "")
        )
    },
    spec=spec,
    title="GPT-J",
)
