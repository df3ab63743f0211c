"""ModernBERT: an encoder that turns, gates its feed-forward, and on two layers of three sees only what is near."""

from __future__ import annotations

from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.names import QKV, Architecture, Tensors, names_of, stacked
from octavo.models.rope_settings import rope_of_kind
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Dense, Layer, Mlp, ModelSpec, Norm, Pooler

KINDS = ("full_attention", "sliding_attention")


def spec(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    width, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    if width % (2 * heads):
        raise c.refused("num_attention_heads", f"a divisor of half the width, which is {width}")
    norm = Norm(c.number("norm_eps", 1e-5), "layer", bias=c.boolean("norm_bias"))
    ffn = Mlp(c.integer("intermediate_size"), c.boolean("mlp_bias"), activation(c, "gelu", name="hidden_activation"))
    near = c.integer("local_attention", 128) // 2 + 1  # on either side, the token's own included
    bias, layers = c.boolean("attention_bias"), []
    for index, kind in enumerate(kinds(c)):
        theta = c.number(*(("global_rope_theta", 160000.0) if kind == KINDS[0] else ("local_rope_theta", 10000.0)))
        turned = rope_of_kind(c, kind, width // heads, theta=theta)
        window = near if kind == KINDS[1] else 0
        attn = Attn(heads, heads, width // heads, turned, bias, bias, window=window, causal=False)
        layers.append(Layer(attn, ffn, norm, first=None if index else Norm(kind="none")))
    max_len = c.integer("max_position_embeddings", 8192)
    return whole(c, layers, width, norm, max_len=max_len, embed_norm=norm, head=False, tied=True)


def classifier(c: Settings, labels: int) -> Pooler:
    """The first token's vector, or the mean, through the model's head, then the labels' layer."""
    act = activation(c, "gelu", name="classifier_activation")
    norm = Norm(c.number("norm_eps", 1e-5), "layer", bias=c.boolean("norm_bias"))
    head = Dense("head", c.integer("hidden_size"), c.boolean("classifier_bias"), act, norm)
    return Pooler(c.word("classifier_pooling", "cls", "mean", default="cls"), (head, Dense("classifier", labels)))


def kinds(c: Settings) -> list[str]:
    """What each layer sees."""
    count = c.integer("num_hidden_layers", high=LAYERS)
    if c.has("layer_types"):
        return c.each("layer_types", count, *KINDS)
    every = c.integer("global_attn_every_n_layers", 3)
    return [KINDS[index % every != 0] for index in range(count)]


OUTER = {
    "embed": "{p}embeddings.tok_embeddings.weight",
    "embed_norm": "{p}embeddings.norm.weight",
    "embed_norm_bias": "{p}embeddings.norm.bias",
    "norm": "{p}final_norm.weight",
    "norm_bias": "{p}final_norm.bias",
    "pool.head": "head.dense.weight",
    "pool.head_bias": "head.dense.bias",
    "pool.head_norm": "head.norm.weight",
    "pool.head_norm_bias": "head.norm.bias",
    "pool.classifier": "classifier.weight",
    "pool.classifier_bias": "classifier.bias",
}
INNER = {
    "attn_norm": "attn_norm",
    "o": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "gate": "mlp.Wi",
    "up": "mlp.Wi",
    "down": "mlp.Wo",
} | dict.fromkeys(QKV, "attn.Wqkv")
ARCHITECTURE = Architecture(
    names=("ModernBertModel", "ModernBertForMaskedLM"),
    gguf=(),
    tensors={
        "safetensors": Tensors(
            names_of(OUTER, "{p}layers.{i}.", INNER),
            harmless=(r"(head|decoder)\..*",),
            fused=stacked(*QKV, "gate", "up"),
            prefixes=("", "model."),
        )
    },
    spec=spec,
    title="ModernBERT",
    notes="encoder",
    classifier=classifier,
)
