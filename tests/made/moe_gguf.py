"""Folders of tests/data/zoo with mixtures of experts as GGUF files, the way llama.cpp's converter makes them.

FILES: folder -> the architecture's name there, more keys, and tensors with names of their own. Plain numpy, but for the
reading of the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_file
import numpy as np
import zoo_gguf

OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "model.embedding_norm.weight": "token_embd_norm.weight",
}
INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "self_attn.out_proj": "attn_output",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
}
EXPERTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
WORDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "sliding_window": "attention.sliding_window",
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "norm_topk_prob": "expert_weights_norm",
    "routed_scaling_factor": "expert_weights_scale",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "num_dense_layers": "leading_dense_block_count",
    "conv_L_cache": "shortconv.l_cache",
}


def layer_tensors(stored: dict[str, np.ndarray], index: int, config: dict[str, Any], turned: bool) -> dict[str, Any]:
    """One layer under GGUF's names, experts stacked."""
    out: dict[str, Any] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for name, values in stored.items():
        if not name.startswith(f"model.layers.{index}."):
            continue
        part, _, ending = name.removeprefix(f"model.layers.{index}.").rpartition(".")
        if ".experts." in part + "." and part.split(".")[-2].isdigit():
            number, kind = part.split(".")[-2:]
            stacks.setdefault(EXPERTS[kind], {})[int(number)] = values
        elif ending in ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"):
            out |= fused_experts(ending, values, config["model_type"] == "gpt_oss")
        elif part.endswith("input_linear"):
            out |= fused_experts("gate_up_proj", values, False)
        elif part.endswith("output_linear"):
            out["ffn_down_exps.weight"] = values
        elif ending == "sinks":
            out["attn_sinks.weight"] = values
        elif ending in ("e_score_correction_bias", "expert_bias"):
            out["exp_probs_b.bias"] = values
        else:
            moved = turned and part.endswith(("q_proj", "k_proj"))
            values = zoo_gguf.neighbours(values, len(values) // head_dim) if moved else values
            values = values[:, 0] if part == "conv.conv" else values
            out[f"{INNER[part]}.{ending}"] = values[0] if part.endswith("expert_gate") else values
    for kind, each in stacks.items():
        out[f"ffn_{kind}_exps.weight"] = np.stack([each[number] for number in sorted(each)])
    return out


def split_latent(name: str, values: np.ndarray, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What makes keys and values of the latent vector, as files since 2025-04 have it: apart, that of keys turned."""
    if name != "attn_kv_b.weight":
        return {name: values}
    heads, plain = config["num_attention_heads"], config["qk_nope_head_dim"]
    keys, rest = np.split(values.reshape(heads, -1, values.shape[1]), [plain], axis=1)
    return {"attn_k_b.weight": np.ascontiguousarray(keys.swapaxes(1, 2)), "attn_v_b.weight": np.ascontiguousarray(rest)}


def fused_experts(name: str, values: np.ndarray, oss: bool) -> dict[str, np.ndarray]:
    """The experts of one tensor apart; those of gpt-oss lie the other way round, gate and up by turns."""
    ending = "bias" if name.endswith("bias") else "weight"
    values = values.swapaxes(1, 2) if oss and ending == "weight" else values
    if name.startswith("down"):
        return {f"ffn_down_exps.{ending}": values}
    half = values.shape[1] // 2
    gate, up = (values[:, ::2], values[:, 1::2]) if oss else (values[:, :half], values[:, half:])
    return {f"ffn_gate_exps.{ending}": gate, f"ffn_up_exps.{ending}": up}


def as_gguf(
    folder: Path,
    path: Path,
    architecture: str,
    more: dict[str, Any],
    renamed: dict[str, str],
    kinds: dict[str, str] | None = None,
) -> Path:
    """A folder of the zoo as a GGUF file of float32, but for `kinds`: types by a name within a layer."""
    config, stored = json.loads((folder / "config.json").read_text()), zoo_gguf.read(folder / "model.safetensors")
    turned = architecture in ("llama", "granitemoe")
    tensors = {new: stored[old] for old, new in OUTER.items() if old in stored}
    split = "attention.key_length_mla" in more
    for index in range(config["num_hidden_layers"]):
        for name, values in layer_tensors(stored, index, config, turned).items():
            for part, each in (split_latent(name, values, config) if split else {name: values}).items():
                tensors[f"blk.{index}.{renamed.get(part, part)}"] = each
    keys = {WORDS[name]: value for name, value in config.items() if name in WORDS and value}
    keys["rope.freq_base"] = config["rope_parameters"]["rope_theta"]
    if config.get("head_dim"):
        keys |= {"attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}
    metadata: dict[str, Any] = {"general.architecture": architecture, "tokenizer.ggml.eos_token_id": 2}
    metadata |= {f"{architecture}.{key}": value for key, value in (keys | more).items()}
    encoded = {}
    for name, values in tensors.items():
        kind = (kinds or {}).get(name.removeprefix("blk.").partition(".")[2], "F32")
        encoded[name] = kind, values.shape, gguf_file.encode(kind, values)
    return gguf_file.write(path, metadata, encoded)


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
DEEP = {"rope.scaling.yarn_log_multiplier": 0.07}
LATENT = {
    "attention.head_count_kv": 1,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 32,
}
FILES = {
    "mixtral": ("llama", {"attention.sliding_window": 1 << 20}, {}),
    "qwen2_moe": ("qwen2moe", {}, {}),
    "qwen3_moe-stacked": ("qwen3moe", {}, {}),
    "olmoe": ("olmoe", {}, {}),
    "granitemoe": ("granitemoe", {}, {}),
    "deepseek_v2": ("deepseek2", LATENT | YARN | DEEP, {}),
    "deepseek_v2-lite": ("deepseek2", {"attention.key_length": 42, "attention.value_length": 64}, {}),
    "deepseek_v3": ("deepseek2", LATENT | YARN | DEEP | {"expert_gating_func": 2}, {}),
    "lfm2_moe": ("lfm2moe", {"attention.head_count_kv": [0, 2, 0], "expert_gating_func": 2}, {}),
    "glm4_moe": (
        "glm4moe",
        {"rope.dimension_count": 12, "expert_gating_func": 2, "block_count": 3, "nextn_predict_layers": 1},
        {"ffn_norm.weight": "post_attention_norm.weight"},
    ),
    "gpt_oss": ("gpt-oss", YARN, {"ffn_norm.weight": "post_attention_norm.weight"}),
}
