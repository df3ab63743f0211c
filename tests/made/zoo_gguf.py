"""Folders of tests/data/zoo as GGUF files, the way llama.cpp's converter makes them: float32, its names and orders.

zoo_gguf_rows.py says what each one is there. Plain numpy, nothing shared with octavo.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf_file
import numpy as np
from zoo_gguf_rows import ROWS as ROWS
from zoo_gguf_rows import Arrays, Row


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
        (
            key
            for key in ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
            if key in c
        ),
        "",
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
