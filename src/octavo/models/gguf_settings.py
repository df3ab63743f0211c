"""GGUF metadata in the words of config.json, so that an architecture is declared once.

What config.json says and GGUF does not (biases, a tied head) is told by which tensors there are. Keys:
github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.checkpoint.source import Source
from octavo.core.errors import ModelError
from octavo.models.settings import Settings

ROPE_FREQS = "rope_freqs.weight"
# ours -> GGUF's, after "llama." or whatever the architecture is called
KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "value_head_dim": "attention.value_length",
    "rotary_dim": "rope.dimension_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window",
    "num_local_experts": "expert_count",
}
BOS = "tokenizer.ggml.bos_token_id"
ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# Ends of a turn, looked for where a file names none: many older files give only the end of text.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>")
CONTROL = 3  # kind of a token that stands for no text (tokenizer.ggml.token_type)


def gguf_settings(source: Source, architecture: str, words: Mapping[str, str] | None = None) -> Settings:
    """The settings of a GGUF file of this architecture. `words`: see Architecture. Raises ModelError."""
    metadata, tensors = source.metadata, source.tensors
    written = {ours: f"{architecture}.{key}" for ours, key in KEYS.items()}
    values: dict[str, Any] = {ours: metadata.get(key) for ours, key in written.items()}
    for name in ("max_position_embeddings", "rms_norm_eps"):  # config.json has defaults for these, GGUF has not
        if values[name] is None:
            raise Settings(source.path, values, written).refused(name, "a number above 0")
    if values["vocab_size"] is None and "token_embd.weight" in tensors:
        values["vocab_size"] = tensors["token_embd.weight"].shape[0]
    values["tie_word_embeddings"] = "output.weight" not in tensors
    values["attention_bias"] = "blk.0.attn_q.bias" in tensors
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
    }
    return Settings(source.path, values, written)


def _rope(source: Source, prefix: str) -> dict[str, Any]:
    """Scaling of positions. A factor without a type is linear; Llama 3's lies in a tensor of divisors."""
    kind, factor = source.metadata.get(prefix + "type"), source.metadata.get(prefix + "factor")
    if factor is None:
        factor = source.metadata.get(prefix.replace("scaling.", "scale_linear"))  # its name in old files
    if kind is None and factor is not None:
        kind = "linear"
    if kind == "linear" and factor in (None, 0, 0.0):
        kind = "none"
    scaling = {"rope_type": kind, "factor": factor}
    if ROPE_FREQS in source.tensors:
        tensor = source.tensors[ROPE_FREQS]
        if tensor.dtype != "F32" or len(tensor.shape) != 1:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ModelError(f"{source.path}: {ROPE_FREQS} is {found}, expected a vector of F32")
        scaling["divisors"] = tensor.read().view("<f4").tolist()
    return scaling


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
