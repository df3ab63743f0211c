"""GGUF metadata in the words of config.json, so that an architecture is declared once.

What config.json says and GGUF does not (biases, a tied head) is told by which tensors there are. Keys:
github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.settings import Settings

More = Callable[[Settings, Source], dict[str, Any]]
ROPE_FREQS = "rope_freqs.weight"
# ours -> GGUF's, after "llama." or whatever the architecture is called
KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_nextn_predict_layers": "nextn_predict_layers",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "value_head_dim": "attention.value_length",
    "rotary_dim": "rope.dimension_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window",
    "causal": "attention.causal",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
    "routed_scaling_factor": "expert_weights_scale",
    "n_shared_experts": "expert_shared_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "expert_gating_func": "expert_gating_func",
    "first_k_dense_replace": "leading_dense_block_count",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "qk_head_dim": "attention.key_length_mla",
    "v_head_dim": "attention.value_length_mla",
    "temperature_scale": "attention.temperature_scale",
    "use_parallel_residual": "use_parallel_residual",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logit_scale": "logit_scale",
    "clip_qkv": "attention.clamp_kqv",
    "conv_L_cache": "shortconv.l_cache",
    "alibi_bias_max": "attention.max_alibi_bias",
}
NORMALISED = ("qwen3moe", "lfm2moe")  # the shares of experts add up to 1, and no key says so
# The keys within rope.scaling that are plain numbers.
SCALING_KEYS = {
    "original_max_position_embeddings": "original_context_length",
    "attention_factor": "attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "log_multiplier": "yarn_log_multiplier",
}
FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
BOS = "tokenizer.ggml.bos_token_id"
ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# Ends of a turn, looked for where a file names none: many older files give only the end of text.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>")
CONTROL = 3  # kind of a token that stands for no text (tokenizer.ggml.token_type)


def gguf_settings(
    source: Source, architecture: str, words: Mapping[str, str] | None = None, more: More | None = None
) -> Settings:
    """The settings of a GGUF file of this architecture. `words`, `more`: see Architecture. Raises ModelError."""
    metadata, tensors = source.metadata, source.tensors
    written = {ours: f"{architecture}.{key}" for ours, key in KEYS.items()}
    values: dict[str, Any] = {ours: metadata.get(key) for ours, key in written.items()}
    for names in (("max_position_embeddings",), ("rms_norm_eps", "layer_norm_eps")):  # config.json has defaults
        if all(values[name] is None for name in names):
            raise Settings(source.path, values, written).refused(names[0], "a number above 0")
    if values["vocab_size"] is None and "token_embd.weight" in tensors:
        values["vocab_size"] = tensors["token_embd.weight"].shape[0]
    if values["norm_topk_prob"] is None and architecture in NORMALISED:
        values["norm_topk_prob"] = True
    values["tie_word_embeddings"] = "output.weight" not in tensors
    values["attention_bias"] = "blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors
    values["output_bias"] = "blk.0.attn_output.bias" in tensors
    values["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    values["bos_token_id"] = metadata.get(BOS)
    values["eos_token_id"] = _end_ids(source)
    prefix = f"{architecture}.rope.scaling."
    values["rope_scaling"] = _rope(source, prefix)
    written |= {
        "bos_token_id": BOS,
        "eos_token_id": " or ".join(ENDS),
        "rope_scaling.rope_type": prefix + "type",
        "rope_scaling.factor": prefix + "factor",
        "rope_scaling.divisors": ROPE_FREQS,
        "rope_scaling": ROPE_FREQS,
        **{f"rope_scaling.{ours}": prefix + key for ours, key in SCALING_KEYS.items()},
        **{f"rope_scaling.{ours}": name for ours, name in FACTORS.items()},
    }
    if more:
        values |= more(Settings(source.path, values, written), source)
    for ours, word in (words or {}).items():
        values[word], written[word] = values.get(ours), written.get(ours, ours)
    return Settings(source.path, values, written)


def _rope(source: Source, prefix: str) -> dict[str, Any]:
    """Scaling of positions. A factor without a type is linear; Llama 3's and Phi 3's lie in tensors of divisors."""
    kind, factor = source.metadata.get(prefix + "type"), source.metadata.get(prefix + "factor")
    if factor is None:
        factor = source.metadata.get(prefix.replace("scaling.", "scale_linear"))  # its name in old files
    if kind is None and factor is not None:
        kind = "linear"
    if kind == "linear" and factor in (None, 0, 0.0):
        kind = "none"
    factors = {ours: _numbers(source, name) for ours, name in FACTORS.items() if name in source.tensors}
    if factors and kind in (None, "none"):
        kind = "longrope"
    scaling = {"rope_type": kind, "factor": factor, **factors}
    scaling |= {ours: source.metadata.get(prefix + key) for ours, key in SCALING_KEYS.items()}
    if ROPE_FREQS in source.tensors:
        scaling["divisors"] = _numbers(source, ROPE_FREQS)
    return scaling


def _numbers(source: Source, name: str) -> list[float]:
    """The values of a small tensor. Raises ModelError for one that is no vector of float32."""
    tensor = source.tensors[name]
    if tensor.dtype != "F32" or len(tensor.shape) != 1:
        raise ModelError(f"{source.path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected a vector of F32")
    return [float(value) for value in tensor.read().view("<f4")]


def _end_ids(source: Source) -> list[Any]:
    """The ids that end a text or a turn; what is wrong with them is for the reader to say."""
    metadata = source.metadata
    ids = [metadata[key] for key in ENDS if metadata.get(key) is not None]
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if "tokenizer.ggml.eot_token_id" in metadata or not isinstance(tokens, list) or not isinstance(kinds, list):
        return ids
    for text in TURN_ENDS:
        if text in tokens:
            token = tokens.index(text)
            if token < len(kinds) and kinds[token] == CONTROL:
                ids.append(token)
    return ids
