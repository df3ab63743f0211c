"""What llama.cpp's converter makes of each folder of tests/data/zoo: names, keys, and what happens to its tensors.

ROWS is the table; zoo_gguf.py writes the files. `names` are checked against the gguf package where that is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
PER_HEAD = {f"attn_{name}_norm": f"model.layers.{{i}}.self_attn.{name}_layernorm" for name in "qk"}
PHI3 = {"attn_qkv": "model.layers.{i}.self_attn.qkv_proj", "ffn_up": "model.layers.{i}.mlp.gate_up_proj"}


LFM2 = {
    "attn_norm": "model.layers.{i}.operator_norm",
    "attn_q_norm": "model.layers.{i}.self_attn.q_layernorm",
    "attn_k_norm": "model.layers.{i}.self_attn.k_layernorm",
    "attn_output": "model.layers.{i}.self_attn.out_proj",
    "shortconv.conv": "model.layers.{i}.conv.conv",
    "shortconv.in_proj": "model.layers.{i}.conv.in_proj",
    "shortconv.out_proj": "model.layers.{i}.conv.out_proj",
    "ffn_norm": "model.layers.{i}.ffn_norm",
    "ffn_gate": "model.layers.{i}.feed_forward.w1",
    "ffn_up": "model.layers.{i}.feed_forward.w3",
    "ffn_down": "model.layers.{i}.feed_forward.w2",
}


def one_norm(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """StableLM's norms of a layer's heads as one tensor."""
    apart = sorted((key for key in tensors if ".norms." in key), key=lambda key: int(key.split(".")[-2]))
    for key in apart:
        name = key.partition(".norms.")[0] + ".weight"
        row = tensors.pop(key)[None]
        tensors[name] = np.concatenate([tensors[name], row]) if name in tensors else row
    return tensors


def unpacked(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """Baichuan 2's projections apart, and the rows of its head of length 1, as its makers say to do before."""
    for key in [key for key in tensors if "W_pack" in key]:
        for name, rows in zip("qkv", np.split(tensors.pop(key), 3), strict=True):
            tensors[key.replace("W_pack", f"{name}_proj")] = rows
    head = tensors["lm_head.weight"]
    return tensors | {"lm_head.weight": head / np.linalg.norm(head, axis=1, keepdims=True)}


def window(c: dict[str, Any]) -> dict[str, Any]:
    """That of all layers."""
    return {"attention.sliding_window": c["sliding_window"]}


def olmo3_keys(c: dict[str, Any]) -> dict[str, Any]:
    """Which layers slide, and the stretching of those that do not."""
    full = c["rope_parameters"]["full_attention"]
    return {
        "attention.sliding_window": c["sliding_window"],
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in c["layer_types"]],
        "rope.freq_base": full["rope_theta"],
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": full["factor"],
        "rope.scaling.original_context_length": full["original_max_position_embeddings"],
    }


def flat_taps(tensors: Arrays, c: dict[str, Any]) -> Arrays:
    """LFM2's convolutions without the axis of the one input that each output has."""
    return {key: value[:, 0] if "conv.conv.weight" in key else value for key, value in tensors.items()}


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


BERT = {
    "attn_q": "encoder.layer.{i}.attention.self.query",
    "attn_k": "encoder.layer.{i}.attention.self.key",
    "attn_v": "encoder.layer.{i}.attention.self.value",
    "attn_output": "encoder.layer.{i}.attention.output.dense",
    "attn_output_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "ffn_up": "encoder.layer.{i}.intermediate.dense",
    "ffn_down": "encoder.layer.{i}.output.dense",
    "layer_output_norm": "encoder.layer.{i}.output.LayerNorm",
}
BERT_OUTER = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}


def encoder(c: dict[str, Any]) -> dict[str, Any]:
    """Tokens see each other, and vectors are the first token's."""
    return {"attention.causal": False, "pooling_type": 2}


def unpooled(first: int) -> Callable[[Arrays, dict[str, Any]], Arrays]:
    """No pooler, and of positions the rows from `first` on."""

    def change(tensors: Arrays, c: dict[str, Any]) -> Arrays:
        name = "embeddings.position_embeddings.weight"
        tensors[name] = tensors[name][first:]
        return {name: value for name, value in tensors.items() if not name.startswith("pooler.")}

    return change


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
    "phi3": Row("phi3", LAYERS | PHI3, OUTER, keys=window),
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
        keys=window,
    ),
    "stablelm": Row("stablelm", LAYERS, OUTER, "layer", keys=partial),
    "stablelm-2-12b": Row("stablelm", LAYERS | PER_HEAD, OUTER, "layer", keys=partial, change=one_norm),
    "olmo": Row("olmo", LAYERS, OUTER, "layer", turned=True, keys=lambda c: {"attention.clamp_kqv": c["clip_qkv"]}),
    "olmo2": Row("olmo2", BEHIND, OUTER),
    "bert": Row("bert", BERT, BERT_OUTER, "layer", keys=encoder, change=unpooled(0)),
    "roberta": Row("bert", BERT, BERT_OUTER, "layer", keys=encoder, change=unpooled(2)),
    "xlm-roberta": Row("bert", BERT, BERT_OUTER, "layer", keys=encoder, change=unpooled(2)),
    "olmo3": Row("olmo2", BEHIND, OUTER, keys=olmo3_keys),
    "baichuan2-7b": Row("baichuan", LAYERS, OUTER, turned=True, change=unpacked),
    "mistral": Row("llama", LAYERS, OUTER, turned=True, keys=window),
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
    "lfm2": Row(
        "lfm2",
        LAYERS | LFM2,
        {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm"},
        keys=lambda c: {
            "attention.head_count_kv": [c["num_key_value_heads"] * (kind != "conv") for kind in c["layer_types"]],
            "shortconv.l_cache": c["conv_L_cache"],
            "feed_forward_length": 64,  # 96 as it is adjusted
        },
        change=flat_taps,
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
