"""What an architecture consists of, as data, and the tensor names of the Llama family in both file formats.

Our names are those of models/parts.py: "embed", "norm", "head", and for each layer "layers.{i}." with "attn_norm", "q",
"k", "v", "o", "ffn_norm", "gate", "up", "down" and others, those of an expert after "layers.{i}.{e}.", and "_bias"
after a part's. Knows no shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.checkpoint.source import Source
from octavo.models.joined import Join
from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec, Pooler

# Layers behind a request's vector, whatever the model: of a decoder's classifier, and of sentence-transformers.
DENSE = [f"pool.dense{number}" for number in range(1, 10)]
POOLING = {"pool.score": "score.weight", "pool.score_bias": "score.bias"} | {
    key + ending: f"{key.removeprefix('pool.dense')}_linear.{kind}"
    for key in DENSE
    for ending, kind in (("", "weight"), ("_bias", "bias"))
}


@dataclass(frozen=True, slots=True)
class Tensors:
    """One file format's tensors.

    `names`: ours -> the format's, "{i}" being the layer, "{p}" one of `prefixes`, the first under which there is an
    embedding, "{e}" the expert, which the name of a tensor of all experts lacks, and "|" between names of which one is
    there. `harmless`: patterns of tensors that may be there unread. What is declared by the last part of our name,
    without "_bias":

        interleaved  in each head the rows of "q" and "k" that turn together are neighbours
        fused        "q", "k", "v" or "gate", "up", where they have one name: "stacked" or "grouped" (models/rows.py);
                     an expert's are "stacked" or, so declared, "alternating"
        transposed   matrices stored [inputs, outputs]
        plus_one     vectors to whose values 1 is added
        skipped      rows that are left out at the start

    `join`: puts together what the file stores as several tensors, before any is looked up.
    """

    names: Mapping[str, str]
    harmless: tuple[str, ...] = ()
    interleaved: bool = False
    fused: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    plus_one: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("",)
    join: Join | None = None

    def written(self, key: str, there: Container[str]) -> str:
        """The format's name of a tensor of ours, in a file with the tensors `there`."""
        first = (prefix for prefix in self.prefixes if self.names["embed"].replace("{p}", prefix) in there)
        prefix, i, e = next(first, self.prefixes[0]), "", [""]
        if key.startswith("layers."):
            _, i, *e, part = key.split(".")
            key = "layers.{i}." + part
        named = self.names.get(key) or POOLING[key]
        names = named.replace("{i}", i).replace("{e}", "".join(e)).replace("{p}", prefix).split("|")
        return next((name for name in names if name in there), names[0])


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of model. `names` as in config.json, `gguf` as in general.architecture; `tensors` by kind of source.

    `classifier`: how one with a head of labels pools, those layers in order; None: as decoders do (models/pooler.py).
    `words`: what config.json calls some settings of GGUF's, where it is not Llama's word. `more`: settings that follow
    from those of a GGUF file and its tensors. `title`, `notes`: for people.
    """

    names: tuple[str, ...]
    gguf: tuple[str, ...]
    tensors: Mapping[str, Tensors]
    spec: Callable[[Settings], ModelSpec]
    title: str
    notes: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[Settings, Source], dict[str, Any]] | None = None
    classifier: Callable[[Settings, int], Pooler] | None = None


QKV = ("q", "k", "v")


def stacked(*parts: str, how: str = "stacked") -> dict[str, str]:
    """`Tensors.fused` of parts that lie in one tensor."""
    return dict.fromkeys(parts, how)


def names_of(outer: Mapping[str, str], layer: str, inner: Mapping[str, str]) -> dict[str, str]:
    """`Tensors.names` from those of a layer, without ".weight" and where they begin, biases included."""
    out = dict(outer)
    for part, name in inner.items():
        for ending, kind in (("", ".weight"), ("_bias", ".bias")):
            out["layers.{i}." + part + ending] = "|".join(layer + each + kind for each in name.split("|"))
    return out


LLAMA_OUTER = {
    "embed": "{p}embed_tokens.weight",
    "norm": "{p}norm.weight",
    "norm_bias": "{p}norm.bias",
    "head": "lm_head.weight",
    "head_bias": "lm_head.bias",
}
LLAMA_LAYER = "{p}layers.{i}."
LLAMA_INNER = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# Buffers that old files carry; a tied model's head is its embedding's table, whether or not it is written twice.
HARMLESS = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", r"lm_head\.weight")


def llama_like(
    inner: Mapping[str, str] | None = None,
    outer: Mapping[str, str] | None = None,
    *,
    interleaved: bool = False,
    fused: Mapping[str, str] | None = None,
    plus_one: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = ("model.", ""),
    harmless: tuple[str, ...] = (),
    transposed: tuple[str, ...] = (),
    whole: Mapping[str, str] | None = None,
) -> Tensors:
    """Llama's tensors of a Hugging Face folder, with what differs. `whole`: a layer's names with their endings."""
    names = names_of({**LLAMA_OUTER, **(outer or {})}, LLAMA_LAYER, {**LLAMA_INNER, **(inner or {})})
    names |= {
        f"layers.{{i}}.{part}": LLAMA_LAYER + name.replace("|", "|" + LLAMA_LAYER)
        for part, name in (whole or {}).items()
    }
    return Tensors(names, (*HARMLESS, *harmless), interleaved, fused or {}, transposed, plus_one, {}, prefixes)


def experts_like(at: str, inner: Mapping[str, str] | None = None) -> dict[str, str]:
    """Names of what a layer's mixture of experts consists of, whole: experts apart, or stacked by transformers 5."""
    parts = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"} | dict(inner or {})
    out = {"router": f"{at}.gate.weight"}
    for part, name in parts.items():
        joined = "down_proj" if part == "down" else "gate_up_proj"
        out["expert_" + part] = f"{at}.experts.{{e}}.{name}.weight|{at}.experts.{joined}"
    return out


LLAMA = llama_like()

GGUF_OUTER = {
    "embed": "token_embd.weight",
    "positions": "position_embd.weight",
    "types": "token_types.weight",
    "embed_norm": "token_embd_norm.weight",
    "embed_norm_bias": "token_embd_norm.bias",
    "norm": "output_norm.weight",
    "norm_bias": "output_norm.bias",
    "head": "output.weight",
    "head_bias": "output.bias",
}
GGUF_INNER = {
    "attn_norm": "attn_norm",
    "q": "attn_q|attn_qkv",
    "k": "attn_k|attn_qkv",
    "v": "attn_v|attn_qkv",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attn_post": "post_attention_norm",
    "attn_after": "attn_output_norm",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate|ffn_gate_shexp",
    "up": "ffn_up|ffn_up_shexp",
    "down": "ffn_down|ffn_down_shexp",
    "router": "ffn_gate_inp",
    "shared_gate": "ffn_gate_inp_shexp",
    "expert_gate": "ffn_gate_exps|ffn_gate.{e}",
    "expert_up": "ffn_up_exps|ffn_up.{e}",
    "expert_down": "ffn_down_exps|ffn_down.{e}",
    "sinks": "attn_sinks",
    "ffn_post": "post_ffw_norm",
    "ffn_after": "layer_output_norm",
}


def gguf_like(
    inner: Mapping[str, str] | None = None, *, interleaved: bool = False, fused: Mapping[str, str] | None = None
) -> Tensors:
    """The tensors of a GGUF file. interleaved: llama.cpp turns neighbours; its converters reorder q and k so."""
    names = names_of(GGUF_OUTER, "blk.{i}.", {**GGUF_INNER, **(inner or {})})
    # rope_freqs and rope_factors are read with the settings; the third is an old buffer.
    harmless = (r"rope_freqs\.weight", r"rope_factors_(long|short)\.weight", r"blk\.\d+\.attn_rot_embd\.weight")
    return Tensors(names, harmless, interleaved, {**stacked(*QKV), **(fused or {})})


LLAMA_GGUF = gguf_like(interleaved=True)
GGUF = gguf_like()
GGUF_QKV = gguf_like(dict.fromkeys(QKV, "attn_qkv"), fused=stacked(*QKV))
