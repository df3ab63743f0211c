"""BERT, RoBERTa and XLM-R: encoders whose norms come after each addition; learned positions, all of type 0."""

from __future__ import annotations

from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.arch.llama import LAYERS, activation, whole
from octavo.models.names import GGUF, Architecture, Tensors, names_of
from octavo.models.settings import Settings
from octavo.models.spec import Attn, Dense, Layer, Mlp, ModelSpec, Norm, Pooler


def bert(c: Settings) -> ModelSpec:
    """Raises ModelError for what is malformed or not supported."""
    return _encoder(c, 0)


def roberta(c: Settings) -> ModelSpec:
    """Positions begin behind the row of the padding token. Raises ModelError."""
    c.only("pad_token_id", SKIPPED - 1)
    return _encoder(c, SKIPPED)


def bert_classifier(c: Settings, labels: int) -> Pooler:
    """The first token's vector through a layer of the model's own, then the labels'."""
    return Pooler("cls", (Dense("pooler", c.integer("hidden_size"), activation="tanh"), Dense("classifier", labels)))


def roberta_classifier(c: Settings, labels: int) -> Pooler:
    """As BERT's, where the head has both layers."""
    return Pooler("cls", (Dense("dense", c.integer("hidden_size"), activation="tanh"), Dense("out_proj", labels)))


def _encoder(c: Settings, skipped: int) -> ModelSpec:
    c.only("is_decoder", False)
    c.only("add_cross_attention", False)
    c.only("position_embedding_type", "absolute")
    width, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    if width % (2 * heads):
        raise c.refused("num_attention_heads", f"a divisor of half the width, which is {width}")
    norm, none = Norm(c.number("layer_norm_eps", 1e-12), "layer", bias=True), Norm(kind="none")
    attn = Attn(heads, heads, width // heads, None, qkv_bias=True, out_bias=True, causal=False)
    ffn = Mlp(c.integer("intermediate_size"), True, activation(c, "gelu"), gated=False)
    layers = [Layer(attn, ffn, none, after=norm)] * c.integer("num_hidden_layers", high=LAYERS)
    positions = c.integer("max_position_embeddings", 512, low=skipped + 1) - skipped
    types = c.integer("type_vocab_size", 2)
    fields = {"positions": positions, "max_len": positions, "types": types, "embed_norm": norm}
    return whole(c, layers, width, none, head=False, tied=True, **fields)


SKIPPED = 2  # rows of RoBERTa's table that are no positions
OUTER = {
    "embed": "{p}embeddings.word_embeddings.weight",
    "positions": "{p}embeddings.position_embeddings.weight",
    "types": "{p}embeddings.token_type_embeddings.weight",
    "embed_norm": "{p}embeddings.LayerNorm.weight|{p}embeddings.LayerNorm.gamma",
    "embed_norm_bias": "{p}embeddings.LayerNorm.bias|{p}embeddings.LayerNorm.beta",
}
INNER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_after": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_after": "output.LayerNorm",
}
BEHIND = {"pooler": "{p}pooler.dense", "dense": "classifier.dense", "out_proj": "classifier.out_proj"}
BEHIND["classifier"] = "classifier"
# The pooler and the heads of language modelling stand behind the vectors that are given.
HARMLESS = (r"(\w+\.)?(pooler\..*|embeddings\.position_ids)", r"(cls|lm_head)\..*")


def tensors(prefix: str, skipped: int) -> Tensors:
    """Names of a folder. Old files call the weights of norms gamma and beta."""
    names = names_of(OUTER, "{p}encoder.layer.{i}.", INNER)
    for key, name in names.items():
        if key.rpartition(".")[2].startswith(("attn_after", "ffn_after")):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            names[key] = f"{name}|{old}"
    for part, name in BEHIND.items():
        names |= {f"pool.{part}{ending}": f"{name}.{kind}" for ending, kind in (("", "weight"), ("_bias", "bias"))}
    return Tensors(names, HARMLESS, prefixes=("", prefix), skipped={"positions": skipped} if skipped else {})


def from_gguf(c: Settings, source: Source) -> dict[str, Any]:
    """What the tables of a GGUF file say. Its converter leaves out RoBERTa's rows that are no positions."""
    sizes = {"max_position_embeddings": "position_embd.weight", "type_vocab_size": "token_types.weight"}
    return {word: source.tensors[name].shape[0] for word, name in sizes.items() if name in source.tensors}


BERT = Architecture(
    names=("BertModel", "BertForMaskedLM"),
    gguf=("bert",),
    tensors={"safetensors": tensors("bert.", 0), "gguf": GGUF},
    spec=bert,
    more=from_gguf,
    title="BERT",
    notes="encoder; a GGUF file may hold RoBERTa too",
    classifier=bert_classifier,
)
ROBERTA = Architecture(
    names=("RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM"),
    gguf=(),
    tensors={"safetensors": tensors("roberta.", SKIPPED)},
    spec=roberta,
    title="RoBERTa, XLM-R",
    notes="encoders",
    classifier=roberta_classifier,
)
