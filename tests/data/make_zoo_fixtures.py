"""A tiny random model of each architecture, with the logits that transformers gives for it in float32.

usage: make_zoo_fixtures.py OUT [NAME..]     all rows of MODELS, committed as tests/data/zoo, or some

Each becomes a folder: config.json and model.safetensors, prompts.json (lists of token ids) and logits.safetensors
(tensor i: float32 [len(prompt i), vocab]; of an encoder its vectors, [len(prompt i), width]). Weights are lively:
logits have a standard deviation of 1 or so. What transformers does not ship is computed in plain torch by zoo_torch.py,
after the models' public definitions.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
import zoo_torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

VOCAB = 96
LENGTHS = (5, 70)  # of the prompts: 70 reaches into the third page of 32
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LONG = {"short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.5, 2.0, 3.0, 4.5], "rope_type": "longrope"}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
DEEP = YARN | {"mscale": 0.7, "mscale_all_dim": 0.7}
LATENT = SMALL | {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
# Row: name -> model_type and settings; "stored": dtype of the file, "lengths": of the prompts.
MODELS: dict[str, dict[str, Any]] = {
    "llama-yarn": SMALL | {"type": "llama", "rope_parameters": YARN, "stored": "float16"},
    "llama-dynamic": SMALL
    | {
        "type": "llama",
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "lengths": [64],  # the theta that transformers takes at this length is the one we always take
    },
    "mistral": SMALL
    | {"type": "mistral", "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
    | {"head_dim": 32, "sliding_window": 20, "intermediate_size": 64},
    "qwen2": SMALL | {"type": "qwen2", "num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 56},
    "qwen2-sliding": SMALL | {"type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": SMALL | {"type": "qwen3", "head_dim": 24, "tie_word_embeddings": True, "stored": "float16"},
    "gemma": SMALL | {"type": "gemma", "head_dim": 32, "num_key_value_heads": 1},
    "gemma2": SMALL | {"type": "gemma2", "head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "gemma3-six": SMALL  # the pattern of the published ones, which GGUF files do not spell out
    | {"type": "gemma3_text", "head_dim": 8, "sliding_window": 12, "query_pre_attn_scalar": 8, "num_hidden_layers": 6}
    | {"hidden_size": 32, "intermediate_size": 32, "lengths": [50]}
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "gemma3": SMALL
    | {"type": "gemma3_text", "head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24, "num_hidden_layers": 3}
    | {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "intermediate_size": 48,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "phi": SMALL
    | {"type": "phi", "hidden_size": 160, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    | {"intermediate_size": 96, "partial_rotary_factor": 0.4},
    "phi3": SMALL | {"type": "phi3", "sliding_window": 24, "tie_word_embeddings": True},
    "phi3-long": SMALL
    | {"type": "phi3", "original_max_position_embeddings": 32, "lengths": [60], "pad_token_id": 0}
    | {"partial_rotary_factor": 0.5, "rope_parameters": LONG | {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "gpt2": {"type": "gpt2", "n_embd": 60, "n_head": 3, "n_layer": 2, "n_positions": 80},
    "gpt_neox": SMALL
    | {"type": "gpt_neox", "num_attention_heads": 2, "num_hidden_layers": 2}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    "gpt_neox-sequential": SMALL | {"type": "gpt_neox", "use_parallel_residual": False, "num_key_value_heads": 4},
    "gptj": {"type": "gptj", "n_embd": 72, "n_head": 3, "n_layer": 1, "n_positions": 96, "rotary_dim": 8},
    "opt": SMALL | {"type": "opt", "ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 72},
    "opt-350m": SMALL
    | {"type": "opt", "ffn_dim": 80, "word_embed_proj_dim": 40, "max_position_embeddings": 72}
    | {"do_layer_norm_before": False},
    "bloom": {"type": "bloom", "hidden_size": 72, "n_head": 3, "n_layer": 1, "seq_length": 96},
    "mpt": {"type": "mpt", "d_model": 60, "n_heads": 3, "n_layers": 1, "max_seq_len": 96}
    | {"attn_config": {"alibi": True, "clip_qkv": 0.7, "attn_type": "multihead_attention"}},
    "falcon-7b": SMALL
    | {"type": "falcon", "multi_query": True, "num_hidden_layers": 1}
    | {"new_decoder_architecture": False, "parallel_attn": True, "bias": False, "alibi": False},
    "falcon-40b": SMALL
    | {"type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}
    | {"num_hidden_layers": 1, "alibi": False},
    "falcon-rw": SMALL  # of four heads, whose slopes and biases are bfloat16s
    | {"type": "falcon", "multi_query": False, "num_hidden_layers": 2, "new_decoder_architecture": False}
    | {"parallel_attn": False, "bias": True, "alibi": True, "attention": "sdpa"},  # "eager" adds the biases twice
    "starcoder2": SMALL | {"type": "starcoder2", "sliding_window": 17, "hidden_act": "gelu_pytorch_tanh"},
    "stablelm": SMALL
    | {"type": "stablelm", "hidden_size": 96, "num_attention_heads": 4, "use_qkv_bias": True, "num_hidden_layers": 1}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    "stablelm-2-12b": SMALL
    | {"type": "stablelm", "hidden_size": 96, "qk_layernorm": True, "use_parallel_residual": True}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    "olmo": SMALL | {"type": "olmo", "clip_qkv": 0.7},
    "olmo2": SMALL | {"type": "olmo2", "num_attention_heads": 6, "hidden_size": 48},
    "olmo3": SMALL
    | {"type": "olmo3", "sliding_window": 18, "layer_types": ["sliding_attention", "full_attention"]}
    | {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "granite": SMALL
    | {"type": "granite", "embedding_multiplier": 3.0, "attention_multiplier": 0.4, "residual_multiplier": 0.6}
    | {"logits_scaling": 2.0},
    "cohere": SMALL | {"type": "cohere", "use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": SMALL
    | {"type": "cohere2", "sliding_window": 15, "num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48}
    | {"logit_scale": 0.5},
    "glm": SMALL
    | {"type": "glm", "head_dim": 24, "attention_bias": True, "num_hidden_layers": 1}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "glm4": SMALL
    | {"type": "glm4", "head_dim": 24, "attention_bias": True, "num_hidden_layers": 1}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "smollm3": SMALL | {"type": "smollm3", "num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 48},
    "minicpm": SMALL | {"type": "minicpm", "scale_emb": 3.0, "scale_depth": 1.4, "dim_model_base": 32},
    "internlm2": SMALL | {"type": "internlm2", "rope_scaling": {"type": "dynamic", "factor": 1.0}, "bias": True},
    "baichuan2-7b": SMALL | {"type": "baichuan", "num_key_value_heads": 4, "z_loss_weight": 0},
    "baichuan2-13b": SMALL
    | {"type": "baichuan", "hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 6, "z_loss_weight": 0}
    | {"max_position_embeddings": None, "model_max_length": 128},
    "mixtral": SMALL | {"type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 24},
    "qwen2_moe": SMALL
    | {"type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3, "num_hidden_layers": 1}
    | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 80},
    "qwen3_moe": SMALL
    | {"type": "qwen3_moe", "head_dim": 24, "num_experts": 7, "num_experts_per_tok": 2, "norm_topk_prob": False}
    | {"moe_intermediate_size": 40, "decoder_sparse_step": 2},
    "qwen3_moe-stacked": SMALL
    | {"type": "qwen3_moe", "head_dim": 32, "num_experts": 9, "num_experts_per_tok": 4, "norm_topk_prob": True}
    | {"moe_intermediate_size": 40, "num_hidden_layers": 1, "stacked": True},
    "olmoe": SMALL | {"type": "olmoe", "num_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 48},
    "granitemoe": SMALL
    | {"type": "granitemoe", "embedding_multiplier": 3.0, "attention_multiplier": 0.4, "residual_multiplier": 0.6}
    | {"logits_scaling": 2.0, "num_local_experts": 5, "num_experts_per_tok": 3, "intermediate_size": 48},
    "glm4_moe": SMALL
    | {"type": "glm4_moe", "head_dim": 24, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4}
    | {"topk_group": 2, "n_shared_experts": 2, "moe_intermediate_size": 24, "routed_scaling_factor": 1.8}
    | {"first_k_dense_replace": 1, "use_qk_norm": True, "attention_bias": True},
    "deepseek_v2": LATENT
    | {"type": "deepseek_v2", "q_lora_rank": 48, "n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"}
    | {"num_key_value_heads": 4, "n_shared_experts": 2, "routed_scaling_factor": 1.6, "rope_parameters": DEEP},
    "deepseek_v2-lite": LATENT
    | {"type": "deepseek_v2", "q_lora_rank": None, "v_head_dim": 64, "n_shared_experts": 1, "attention_bias": True}
    | {"num_key_value_heads": 4, "qk_rope_head_dim": 10},
    "deepseek_v3": LATENT
    | {"type": "deepseek_v3", "q_lora_rank": 40, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.8}
    | {"num_key_value_heads": 4, "rope_parameters": DEEP | {"mscale": 0.8, "mscale_all_dim": 0.6}},
    "gpt_oss": SMALL
    | {"type": "gpt_oss", "num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 24, "sliding_window": 20}
    | {"swiglu_limit": 1.5, "intermediate_size": 64, "rope_parameters": YARN | {"truncate": False}},
    "lfm2": SMALL  # convolutions of one place each
    | {"type": "lfm2", "num_hidden_layers": 5, "intermediate_size": 96, "block_multiple_of": 16, "conv_bias": False}
    | {"layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"]},
    "lfm2-wide": SMALL  # of two, and four taps
    | {"type": "lfm2", "num_hidden_layers": 3, "hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1}
    | {"block_auto_adjust_ff_dim": False, "conv_bias": True, "conv_L_cache": 4}
    | {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": SMALL
    | {"type": "lfm2_moe", "num_hidden_layers": 3, "num_experts": 6, "num_experts_per_tok": 2, "num_dense_layers": 1}
    | {"moe_intermediate_size": 40, "layer_types": ["conv", "full_attention", "conv"], "routed_scaling_factor": 1.4},
    "bert": SMALL | {"type": "bert", "num_attention_heads": 2, "hidden_size": 48, "encoder": True},
    "roberta": SMALL
    | {"type": "roberta", "hidden_size": 72, "num_attention_heads": 3, "num_hidden_layers": 1, "encoder": True}
    | {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1, "max_position_embeddings": 90},
    "xlm-roberta": SMALL
    | {"type": "xlm-roberta", "hidden_size": 48, "num_hidden_layers": 1, "encoder": True}
    | {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1, "max_position_embeddings": 90},
    "modernbert": SMALL
    | {"type": "modernbert", "num_hidden_layers": 3, "local_attention": 12, "intermediate_size": 48, "encoder": True}
    | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "hidden_size": 48},
}
ENDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def liven(model: torch.nn.Module, stored: torch.dtype) -> None:
    """Random weights: norms around where they began, biases small, matrices that keep sizes."""
    with torch.no_grad():
        for name, values in model.named_parameters():
            noise = torch.randn(values.shape)
            if values.dim() == 1 or "norm" in name:
                start = 0.0 if name.endswith("bias") else values.float().mean().round()
                values.copy_(start + 0.25 * noise)
            else:
                values.copy_(noise * 1.5 * values.shape[-1] ** -0.5)
            values.copy_(values.to(stored).float())
        for name, values in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                values.copy_((0.2 * torch.randn(values.shape)).to(stored).float())


def make(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Write one model with its prompts and logits."""
    torch.manual_seed(zlib.crc32(name.encode()))
    settings = ENDS | settings
    stored = getattr(torch, settings.pop("stored", "bfloat16"))
    lengths, kind = settings.pop("lengths", LENGTHS), settings.pop("type")
    stacked = settings.pop("stacked", False)  # experts in one tensor, as transformers has them in memory
    encoder = settings.pop("encoder", False)
    if kind in zoo_torch.MODELS:
        model = zoo_torch.MODELS[kind](settings)
    else:
        attention = settings.pop("attention", "eager")
        config = AutoConfig.for_model(kind, **settings)
        auto = AutoModel if encoder else AutoModelForCausalLM
        model = auto.from_config(config, attn_implementation=attention).float()
    liven(model.eval(), stored)
    low = 3 if encoder else 0  # RoBERTa counts no position for padding
    prompts = [torch.randint(low, VOCAB, (length,)) for length in lengths]
    with torch.no_grad():
        answers = [model(prompt[None]) for prompt in prompts]
    kind = "last_hidden_state" if hasattr(answers[0], "last_hidden_state") else "logits"
    logits = {str(i): getattr(answer, kind)[0].contiguous() for i, answer in enumerate(answers)}
    folder.mkdir(parents=True, exist_ok=True)
    model.to(stored).save_pretrained(folder)
    if stacked:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "prompts.json").write_text(json.dumps([prompt.tolist() for prompt in prompts]) + "\n")
    save_file(logits, folder / "logits.safetensors")


def main(out: str, *names: str) -> None:
    """Write the folders."""
    for name in names or MODELS:
        make(Path(out) / name, name, MODELS[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
