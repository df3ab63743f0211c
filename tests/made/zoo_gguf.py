"""Folders of tests/data/zoo as GGUF files, the way llama.cpp's converter makes them: float32, its names and orders.

ROWS is the table: what an architecture is called there, its keys, its names, and what happens to its tensors. Plain
numpy, nothing shared with octavo. `names` are checked against the gguf package where that is at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf_file
import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One architecture. names: GGUF's -> the folder's; "norms": "layer" or "rms", which eps is written.

    turned: q and k are put into neighbours; change: anything else, of all tensors in the folder's names.
    """

    arch: str
    names: dict[str, str]
    outer: dict[str, str]
    norms: str = "rms"
    turned: bool = False
    keys: Callable[[dict[str, Any]], dict[str, Any]] = lambda c: {}
    change: Callable[[Arrays, dict[str, Any]], Arrays] = lambda tensors, c: tensors
    words: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Arrays:
    """A safetensors file of float32, float16 or bfloat16, as float32."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    out = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            first, last = (8 + size + offset for offset in entry["data_offsets"])
            values = np.frombuffer(raw[first:last], {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]])
            if entry["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            out[name] = values.astype(np.float32).reshape(entry["shape"])
    return out


def neighbours(rows: np.ndarray, heads: int, dims: int | None = None) -> np.ndarray:
    """The halves of each head's first `dims` rows, woven into each other."""
    split = rows.reshape(heads, -1, *rows.shape[1:])
    dims = dims or split.shape[1]
    woven = split[:, :dims].reshape(heads, 2, dims // 2, *rows.shape[1:]).swapaxes(1, 2)
    return np.concatenate([woven.reshape(heads, dims, *rows.shape[1:]), split[:, dims:]], 1).reshape(rows.shape)


def ungroup(name: str, kv_heads: Callable[[dict[str, Any]], int]) -> Callable[[Arrays, dict[str, Any]], Arrays]:
    """Rows fused group by group become all of q, all of k, all of v."""

    def change(tensors: Arrays, c: dict[str, Any]) -> Arrays:
        heads, groups = c.get("num_attention_heads") or c["n_head"], kv_heads(c)
        for key in [key for key in tensors if name in key]:
            value, per = tensors[key], heads // groups
            split = value.reshape(groups, per + 2, -1, *value.shape[1:])
            parts = (split[:, :per], split[:, per : per + 1], split[:, per + 1 :])
            tensors[key] = np.concatenate([part.reshape(-1, *value.shape[1:]) for part in parts])
        return tensors

    return change


def split_internlm(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """Three projections of the one fused group by group."""
    ungroup("wqkv", lambda c: c["num_key_value_heads"])(tensors, c)
    dim = c["hidden_size"] // c["num_attention_heads"]
    at = [c["num_attention_heads"] * dim, (c["num_attention_heads"] + c["num_key_value_heads"]) * dim]
    for key in [key for key in tensors if "wqkv" in key]:
        for part, values in zip(("wq", "wk", "wv"), np.split(tensors.pop(key), at), strict=True):
            tensors[key.replace("wqkv", part)] = values
    return tensors


def one_more(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """Gemma's norms with the 1 that its code adds."""
    return {key: value + 1 if "norm" in key else value for key, value in tensors.items()}


def upright(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """GPT-2's matrices as [outputs, inputs]."""
    return {key: value.T if re.search(r"\.c_\w+\.weight", key) else value for key, value in tensors.items()}


LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYERS = {key: "model.layers.{i}." + name for key, name in LLAMA.items()}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
POSTS = {
    "post_attention_norm": "model.layers.{i}.post_attention_layernorm",
    "ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
    "post_ffw_norm": "model.layers.{i}.post_feedforward_layernorm",
}
BEHIND = {key: name for key, name in (LAYERS | POSTS).items() if key != "ffn_norm"}
PHI3 = {"attn_qkv": "model.layers.{i}.self_attn.qkv_proj", "ffn_up": "model.layers.{i}.mlp.gate_up_proj"}


def neox(prefix: str, attention: str) -> dict[str, str]:
    """Names of GPT-NeoX and what is like it."""
    inner = {
        "attn_norm": "input_layernorm",
        "attn_qkv": f"{attention}.query_key_value",
        "attn_output": f"{attention}.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }
    return {key: prefix + name for key, name in inner.items()}


def bloom_like(**more: str) -> dict[str, str]:
    """The outer names of BLOOM and Falcon."""
    return {"token_embd": "transformer.word_embeddings", "output_norm": "transformer.ln_f", "output": "lm_head"} | more


def long_rope(c: dict[str, Any]) -> dict[str, Any]:
    """Phi-3's stretching; its factors are tensors."""
    rope = c["rope_parameters"]
    if rope["rope_type"] != "longrope":
        return {"rope.dimension_count": c["hidden_size"] // c["num_attention_heads"]}
    ratio, original = c["max_position_embeddings"] / c["original_max_position_embeddings"], 32
    return {
        "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(ratio) / np.log(original))),
        "rope.scaling.original_context_length": original,
        "rope.dimension_count": int(c["hidden_size"] // c["num_attention_heads"] * rope["partial_rotary_factor"]),
    }


def with_factors(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """Phi-3's two lists."""
    for kind in ("long", "short"):
        if f"{kind}_factor" in c["rope_parameters"]:
            tensors[f"rope_factors_{kind}"] = np.array(c["rope_parameters"][f"{kind}_factor"], np.float32)
    return tensors


def gemma3_keys(c: dict[str, Any]) -> dict[str, Any]:
    """The window, and the rotation of the layers that see all."""
    full = c["rope_parameters"]["full_attention"]
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": full["factor"]}
    return scaling | {"attention.sliding_window": c["sliding_window"], "rope.freq_base": full["rope_theta"]}


def partial(c: dict[str, Any]) -> dict[str, Any]:
    """How many dims turn."""
    rope = c["rope_parameters"]
    share = rope.get("partial_rotary_factor", c.get("partial_rotary_factor"))
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return {"rope.dimension_count": int(dim * share)}


ROWS = {
    "qwen2": Row("qwen2", LAYERS, OUTER),
    "qwen3": Row("qwen3", LAYERS, OUTER),
    "gemma": Row("gemma", LAYERS, OUTER, change=one_more),
    "gemma2": Row(
        "gemma2",
        LAYERS | POSTS,
        OUTER,
        keys=lambda c: {
            "attention.sliding_window": c["sliding_window"],
            "attn_logit_softcapping": c["attn_logit_softcapping"],
            "final_logit_softcapping": c["final_logit_softcapping"],
        },
        change=one_more,
    ),
    "phi": Row(
        "phi2",
        LAYERS
        | {"attn_output": "model.layers.{i}.self_attn.dense"}
        | {"ffn_up": "model.layers.{i}.mlp.fc1", "ffn_down": "model.layers.{i}.mlp.fc2"},
        OUTER | {"output_norm": "model.final_layernorm"},
        "layer",
        keys=partial,
    ),
    "phi3": Row("phi3", LAYERS | PHI3, OUTER, keys=lambda c: {"attention.sliding_window": c["sliding_window"]}),
    "phi3-long": Row("phi3", LAYERS | PHI3, OUTER, keys=long_rope, change=with_factors),
    "gpt2": Row(
        "gpt2",
        {
            "attn_norm": "transformer.h.{i}.ln_1",
            "attn_qkv": "transformer.h.{i}.attn.c_attn",
            "attn_output": "transformer.h.{i}.attn.c_proj",
            "ffn_norm": "transformer.h.{i}.ln_2",
            "ffn_up": "transformer.h.{i}.mlp.c_fc",
            "ffn_down": "transformer.h.{i}.mlp.c_proj",
        },
        {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f"},
        "layer",
        change=upright,
        words={"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
        | {"max_position_embeddings": "n_positions"},
    ),
    "gpt_neox": Row(
        "gptneox",
        neox("gpt_neox.layers.{i}.", "attention"),
        {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "lm_head"}
        | {"output": "embed_out"},
        "layer",
        keys=lambda c: partial(c) | {"use_parallel_residual": c["use_parallel_residual"]},
        change=ungroup("query_key_value", lambda c: c["num_attention_heads"]),
    ),
    "bloom": Row(
        "bloom",
        neox("transformer.h.{i}.", "self_attention"),
        bloom_like(token_embd_norm="transformer.word_embeddings_layernorm"),
        "layer",
        change=ungroup("query_key_value", lambda c: c["n_head"]),
        words={
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
            "max_position_embeddings": "seq_length",
        },
    ),
    "mpt": Row(
        "mpt",
        {
            "attn_norm": "transformer.blocks.{i}.norm_1",
            "attn_qkv": "transformer.blocks.{i}.attn.Wqkv",
            "attn_output": "transformer.blocks.{i}.attn.out_proj",
            "ffn_norm": "transformer.blocks.{i}.norm_2",
            "ffn_up": "transformer.blocks.{i}.ffn.up_proj",
            "ffn_down": "transformer.blocks.{i}.ffn.down_proj",
        },
        {"token_embd": "transformer.wte", "output_norm": "transformer.norm_f"},
        "layer",
        keys=lambda c: {"attention.clamp_kqv": c["attn_config"]["clip_qkv"], "attention.max_alibi_bias": 8.0},
        words={"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
        | {"max_position_embeddings": "max_seq_len"},
    ),
    "falcon-7b": Row(
        "falcon",
        neox("transformer.h.{i}.", "self_attention"),
        bloom_like(),
        "layer",
        keys=lambda c: {"attention.head_count_kv": 1},
        change=ungroup("query_key_value", lambda c: 1),
    ),
    "falcon-40b": Row(
        "falcon",
        neox("transformer.h.{i}.", "self_attention")
        | {"attn_norm_2": "transformer.h.{i}.ln_attn", "attn_norm": "transformer.h.{i}.ln_mlp"},
        bloom_like(),
        "layer",
        keys=lambda c: {"attention.head_count_kv": c["num_kv_heads"]},
        change=ungroup("query_key_value", lambda c: c["num_kv_heads"]),
    ),
    "starcoder2": Row(
        "starcoder2",
        LAYERS | {"ffn_up": "model.layers.{i}.mlp.c_fc", "ffn_down": "model.layers.{i}.mlp.c_proj"},
        OUTER,
        "layer",
        keys=lambda c: {"attention.sliding_window": c["sliding_window"]},
    ),
    "stablelm": Row("stablelm", LAYERS, OUTER, "layer", keys=partial),
    "olmo": Row("olmo", LAYERS, OUTER, "layer", turned=True, keys=lambda c: {"attention.clamp_kqv": c["clip_qkv"]}),
    "olmo2": Row("olmo2", BEHIND, OUTER),
    "granite": Row(
        "granite",
        LAYERS,
        OUTER,
        turned=True,
        keys=lambda c: {
            "attention.scale": c["attention_multiplier"],
            "embedding_scale": c["embedding_multiplier"],
            "residual_scale": c["residual_multiplier"],
            "logit_scale": c["logits_scaling"],
        },
    ),
    "gemma3-six": Row("gemma3", LAYERS | POSTS, OUTER, keys=gemma3_keys, change=one_more),
    "cohere2": Row(
        "cohere2",
        LAYERS,
        OUTER,
        "layer",
        keys=lambda c: {"logit_scale": c["logit_scale"], "attention.sliding_window": c["sliding_window"]},
    ),
    "smollm3": Row("smollm3", LAYERS, OUTER, turned=True),
    "cohere": Row("command-r", LAYERS, OUTER, "layer", keys=lambda c: {"logit_scale": c["logit_scale"]}),
    "glm4": Row(
        "glm4",
        LAYERS
        | {"ffn_up": "model.layers.{i}.mlp.gate_up_proj"}
        | {"post_attention_norm": "model.layers.{i}.post_self_attn_layernorm"}
        | {"post_ffw_norm": "model.layers.{i}.post_mlp_layernorm"},
        OUTER,
        keys=partial,
    ),
    "minicpm": Row(
        "minicpm",
        LAYERS,
        OUTER,
        turned=True,
        keys=lambda c: {
            "embedding_scale": c["scale_emb"],
            "residual_scale": c["scale_depth"] / c["num_hidden_layers"] ** 0.5,
            "logit_scale": c["hidden_size"] / c["dim_model_base"],
        },
    ),
    "internlm2": Row(
        "internlm2",
        {
            "attn_norm": "model.layers.{i}.attention_norm",
            "attn_q": "model.layers.{i}.attention.wq",
            "attn_k": "model.layers.{i}.attention.wk",
            "attn_v": "model.layers.{i}.attention.wv",
            "attn_output": "model.layers.{i}.attention.wo",
            "ffn_norm": "model.layers.{i}.ffn_norm",
            "ffn_gate": "model.layers.{i}.feed_forward.w1",
            "ffn_up": "model.layers.{i}.feed_forward.w3",
            "ffn_down": "model.layers.{i}.feed_forward.w2",
        },
        {"token_embd": "model.tok_embeddings", "output_norm": "model.norm", "output": "output"},
        turned=True,
        change=split_internlm,
    ),
}


def write(folder: Path, row: Row, path: Path) -> Path:
    """One folder as a GGUF file."""
    config = json.loads((folder / "config.json").read_text())
    c = config | {ours: config[word] for ours, word in row.words.items()}
    tensors = row.change(read(folder / "model.safetensors"), c)
    layers, heads = c["num_hidden_layers"], c["num_attention_heads"]
    kv_heads = c.get("num_key_value_heads") or heads
    named = dict(row.outer)
    for i in range(layers):
        named |= {f"blk.{i}.{ours}": name.replace("{i}", str(i)) for ours, name in row.names.items()}
    stored = {}
    for ours, name in named.items():
        for kind in (".weight", ".bias"):
            if name + kind in tensors:
                value = tensors.pop(name + kind)
                if row.turned and re.search(r"attn_[qk]$", ours):
                    value = neighbours(value, heads if ours.endswith("q") else kv_heads)
                stored[ours + kind] = value
    stored |= {name + ".weight": tensors.pop(name) for name in list(tensors) if name.startswith("rope_factors")}
    assert not tensors, sorted(tensors)
    keys = {
        "block_count": layers,
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c.get("intermediate_size") or c.get("n_inner") or 4 * c["hidden_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_epsilon" if row.norms == "layer" else "attention.layer_norm_rms_epsilon": 0.0,
        "rope.freq_base": float((c.get("rope_parameters") or {}).get("rope_theta", 10000.0)),
        "vocab_size": c["vocab_size"],
    }
    eps = next(
        (key for key in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon") if key in c), ""
    )
    keys[next(key for key in keys if "epsilon" in key)] = float(c.get(eps, 1e-5 if row.norms == "layer" else 1e-6))
    if c.get("head_dim"):
        keys |= {"attention.key_length": c["head_dim"], "attention.value_length": c["head_dim"]}
    keys |= row.keys(c)
    metadata = {"general.architecture": row.arch} | {f"{row.arch}.{key}": value for key, value in keys.items()}
    metadata |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    return gguf_file.write(
        path, metadata, {name: ("F32", value.shape, gguf_file.encode("F32", value)) for name, value in stored.items()}
    )
