"""Tiny random Llamas as files: the same numbers as a Hugging Face folder or as a GGUF.

The same arguments give the same weights in both, so a float32 folder and an F32 GGUF answer alike. Logits are lively
(standard deviation around 2). With `tokenizer=True` a byte-level BPE of 3 special tokens (0 <|endoftext|>,
1 <|im_start|>, 2 <|im_end|>, the end of text), 256 bytes and a few merges comes along, with a ChatML template;
identifiers above are not used.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf_file
import numpy as np
import safetensors_file

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "i n", "Ġ a", "e r", "o n", "Ġt he", "r e", "Ġ s", "a t", "e n", "o r", "l l", "Ġ w", "in g")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def weights(
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    inner: int = 128,
    vocab: int = 256,
    tied: bool = True,
    bias: bool = False,
) -> dict[str, np.ndarray]:
    """Float32 arrays by Hugging Face name."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, cols: int, gain: float = 1.0) -> np.ndarray:
        return (random.standard_normal((rows, cols)) * gain / np.sqrt(cols)).astype(np.float32)

    def vector(size: int, mean: float, spread: float) -> np.ndarray:
        return (mean + spread * random.standard_normal(size)).astype(np.float32)

    out = {"model.embed_tokens.weight": matrix(vocab, width, 2.0)}
    for i in range(layers):
        at = f"model.layers.{i}."
        out[at + "input_layernorm.weight"] = vector(width, 1.0, 0.1)
        out[at + "self_attn.q_proj.weight"] = matrix(heads * head_dim, width)
        out[at + "self_attn.k_proj.weight"] = matrix(kv_heads * head_dim, width)
        out[at + "self_attn.v_proj.weight"] = matrix(kv_heads * head_dim, width)
        out[at + "self_attn.o_proj.weight"] = matrix(width, heads * head_dim)
        out[at + "post_attention_layernorm.weight"] = vector(width, 1.0, 0.1)
        out[at + "mlp.gate_proj.weight"] = matrix(inner, width)
        out[at + "mlp.up_proj.weight"] = matrix(inner, width)
        out[at + "mlp.down_proj.weight"] = matrix(width, inner, 2.0)
        for name in [name for name in out if bias and name.startswith(at) and "proj" in name]:
            out[name.replace(".weight", ".bias")] = vector(out[name].shape[0], 0.0, 0.2)
    out["model.norm.weight"] = vector(width, 1.0, 0.1)
    if not tied:
        out["lm_head.weight"] = matrix(vocab, width, 2.0)
    return out


def write_folder(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    inner: int = 128,
    vocab: int | None = None,
    tied: bool = True,
    bias: bool = False,
    dtype: str = "float32",
    max_len: int = 512,
    eps: float = 1e-5,
    theta: float = 10000.0,
    shards: int = 1,
    tokenizer: bool = False,
    config: dict | None = None,
) -> Path:
    """A folder with config.json and safetensors. dtype: float32, bfloat16, float16.

    `config` overrides entries of config.json (None removes one), such as {"rope_scaling": {...}}. vocab is 256, with a
    tokenizer 320.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocab = vocab or (320 if tokenizer else 256)
    made = weights(
        seed=seed,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=inner,
        vocab=vocab,
        tied=tied,
        bias=bias,
    )
    kind = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    stored = {name: (kind, value.shape, gguf_file.encode(kind, value)) for name, value in made.items()}
    if shards == 1:
        safetensors_file.write(path / "model.safetensors", stored, {"format": "pt"})
    else:
        names = list(stored)
        safetensors_file.write_shards(path, [{n: stored[n] for n in names[i::shards]} for i in range(shards)])
    plain = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": max_len,
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "attention_bias": bias,
        "mlp_bias": bias,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype,
    } | (config or {})
    text = json.dumps({key: value for key, value in plain.items() if value is not None}, indent=1)
    (path / "config.json").write_text(text)
    if tokenizer:
        _write_tokenizer(path)
    return path


def write_gguf(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    inner: int = 128,
    vocab: int | None = None,
    tied: bool = True,
    bias: bool = False,
    dtype: str = "Q4_1",
    embed_dtype: str | None = None,
    max_len: int = 512,
    eps: float = 1e-5,
    theta: float = 10000.0,
    tokenizer: bool = False,
    metadata: dict | None = None,
    tensors: dict | None = None,
) -> Path:
    """One file. dtype: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K or Q6_K for the layers; embed_dtype (default: Q8_0 where
    `dtype` is quantized, else dtype) for the embedding and the head.

    `metadata` and `tensors` (in the form of gguf_file) override entries; None removes one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    vocab = vocab or (320 if tokenizer else 256)
    made = weights(
        seed=seed,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=inner,
        vocab=vocab,
        tied=tied,
        bias=bias,
    )
    outer = embed_dtype or ("Q8_0" if dtype.startswith("Q") else dtype)
    stored = {}
    for name, value in made.items():
        if "q_proj" in name or "k_proj" in name:
            value = interleave(value, heads if "q_proj" in name else kv_heads)
        kind = "F32" if value.ndim == 1 else outer if "embed" in name or "lm_head" in name else dtype
        stored[gguf_name(name)] = (kind, value.shape, gguf_file.encode(kind, value))
    keys = {
        "general.architecture": "llama",
        "general.name": "tiny llama",
        "general.license": "apache-2.0",
        "llama.block_count": layers,
        "llama.context_length": max_len,
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.key_length": head_dim,
        "llama.attention.value_length": head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(eps),
        "llama.rope.freq_base": float(theta),
        "llama.rope.dimension_count": head_dim,
        "llama.vocab_size": vocab,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if tokenizer:
        keys |= _gguf_tokenizer(vocab)
    keys |= metadata or {}
    stored |= tensors or {}
    keys = {key: value for key, value in keys.items() if value is not None}
    return gguf_file.write(path, keys, {name: value for name, value in stored.items() if value is not None})


def write_mixed(path: Path) -> Path:
    """A GGUF as llama-quantize mixes Q4_K_M: Q6_K for the embedding and head, and for v and down of some layers."""
    shape = {"width": 256, "heads": 8, "kv_heads": 2, "inner": 256, "layers": 2}
    made = weights(**shape)
    finer = {"blk.0.attn_v.weight": "layers.0.self_attn.v_proj", "blk.0.ffn_down.weight": "layers.0.mlp.down_proj"}
    values = {name: made[f"model.{ours}.weight"] for name, ours in finer.items()}
    tensors = {name: ("Q6_K", value.shape, gguf_file.encode("Q6_K", value)) for name, value in values.items()}
    return write_gguf(path, **shape, dtype="Q4_K", embed_dtype="Q6_K", tensors=tensors)


def interleave(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves to neighbours, as llama's GGUF files have them."""
    return value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def gguf_name(name: str) -> str:
    """A Hugging Face tensor name in GGUF's words."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    _, _, layer, rest = name.split(".", 3)
    part, _, end = rest.rpartition(".")
    return f"blk.{layer}.{parts[part]}.{end}"


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokens() -> list[str]:
    """The vocabulary in use, by id."""
    return [*SPECIAL, *byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]


def _gguf_tokenizer(vocab: int) -> dict:
    used = tokens()
    if vocab < len(used):
        raise ValueError(f"the tokenizer needs a vocabulary of {len(used)} or more")
    unused = [f"[UNUSED{i}]" for i in range(vocab - len(used))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": used + unused,
        "tokenizer.ggml.token_type": ("array", ("i32", [3] * 3 + [1] * (len(used) - 3) + [5] * len(unused))),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _write_tokenizer(path: Path) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    whole = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, "special": True, **flags} for i, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(tokens())},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }
    (path / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT_TEMPLATE}))
