"""What an architecture consists of, as data, and the tensor names of the Llama family in both file formats.

Our names are those of models/load.py: "embed", "norm", "head", and for each layer "layers.{i}." with "attn_norm", "q",
"k", "v", "o", "ffn_norm", "gate", "up", "down", and "_bias" after a projection's. Knows no shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from octavo.models.settings import Settings
from octavo.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Tensors:
    """One file format's tensor names.

    `names`: ours -> the format's, "{i}" being the layer. `harmless`: patterns of tensors that may be there unread.
    `halves_interleaved`: of the tensors whose last part is named here, each head's rows alternate between its two
    halves, and are put back in Hugging Face order.
    """

    names: Mapping[str, str]
    harmless: tuple[str, ...] = ()
    halves_interleaved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of model. `names` as in config.json, `gguf` as in general.architecture; `tensors` by kind of source."""

    names: tuple[str, ...]
    gguf: tuple[str, ...]
    tensors: Mapping[str, Tensors]
    spec: Callable[[Settings], ModelSpec]


LLAMA = Tensors(
    names={
        "embed": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
        "layers.{i}.attn_norm": "model.layers.{i}.input_layernorm.weight",
        "layers.{i}.q": "model.layers.{i}.self_attn.q_proj.weight",
        "layers.{i}.k": "model.layers.{i}.self_attn.k_proj.weight",
        "layers.{i}.v": "model.layers.{i}.self_attn.v_proj.weight",
        "layers.{i}.o": "model.layers.{i}.self_attn.o_proj.weight",
        "layers.{i}.q_bias": "model.layers.{i}.self_attn.q_proj.bias",
        "layers.{i}.k_bias": "model.layers.{i}.self_attn.k_proj.bias",
        "layers.{i}.v_bias": "model.layers.{i}.self_attn.v_proj.bias",
        "layers.{i}.o_bias": "model.layers.{i}.self_attn.o_proj.bias",
        "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm.weight",
        "layers.{i}.gate": "model.layers.{i}.mlp.gate_proj.weight",
        "layers.{i}.up": "model.layers.{i}.mlp.up_proj.weight",
        "layers.{i}.down": "model.layers.{i}.mlp.down_proj.weight",
        "layers.{i}.gate_bias": "model.layers.{i}.mlp.gate_proj.bias",
        "layers.{i}.up_bias": "model.layers.{i}.mlp.up_proj.bias",
        "layers.{i}.down_bias": "model.layers.{i}.mlp.down_proj.bias",
    },
    # Buffers that old files carry; a tied model's head is its embedding's table, whether or not it is written twice.
    harmless=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", r"lm_head\.weight"),
)

LLAMA_GGUF = Tensors(
    names={
        "embed": "token_embd.weight",
        "norm": "output_norm.weight",
        "head": "output.weight",
        "layers.{i}.attn_norm": "blk.{i}.attn_norm.weight",
        "layers.{i}.q": "blk.{i}.attn_q.weight",
        "layers.{i}.k": "blk.{i}.attn_k.weight",
        "layers.{i}.v": "blk.{i}.attn_v.weight",
        "layers.{i}.o": "blk.{i}.attn_output.weight",
        "layers.{i}.q_bias": "blk.{i}.attn_q.bias",
        "layers.{i}.k_bias": "blk.{i}.attn_k.bias",
        "layers.{i}.v_bias": "blk.{i}.attn_v.bias",
        "layers.{i}.o_bias": "blk.{i}.attn_output.bias",
        "layers.{i}.ffn_norm": "blk.{i}.ffn_norm.weight",
        "layers.{i}.gate": "blk.{i}.ffn_gate.weight",
        "layers.{i}.up": "blk.{i}.ffn_up.weight",
        "layers.{i}.down": "blk.{i}.ffn_down.weight",
        "layers.{i}.gate_bias": "blk.{i}.ffn_gate.bias",
        "layers.{i}.up_bias": "blk.{i}.ffn_up.bias",
        "layers.{i}.down_bias": "blk.{i}.ffn_down.bias",
    },
    # rope_freqs is read with the settings; the other is an old buffer.
    harmless=(r"rope_freqs\.weight", r"blk\.\d+\.attn_rot_embd\.weight"),
    # llama.cpp turns neighbouring rows against each other; its converter reorders q and k so.
    halves_interleaved=("q", "k", "q_bias", "k_bias"),
)
