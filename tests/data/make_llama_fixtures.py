"""Tiny random Llama models as transformers saves them, with the logits it gives for them in float32.

usage: make_llama_fixtures.py OUT            the named models, committed as tests/data/llama
       make_llama_fixtures.py OUT COUNT SEED  so many of random shape instead

Each becomes a folder: config.json and model.safetensors, prompts.json (lists of token ids) and logits.safetensors
(tensor i: float32 [len(prompt i), vocab]). Weights are lively: logits have a standard deviation of about 1.5.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

LENGTHS = (1, 33, 70)  # of the prompts: 70 reaches into the third page of 32
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 200,
}
NAMED: dict[str, dict[str, Any]] = {
    "grouped-tied": {
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "biased-untied": {
        "num_key_value_heads": 4,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        "stored": "bfloat16",
    },
    "llama3-wide-heads": {
        "num_key_value_heads": 1,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA3,
        "stored": "float16",
    },
}


def random_config(choice: random.Random) -> dict[str, Any]:
    """Settings of one model of random shape."""
    kv_heads = choice.choice([1, 2, 3])
    heads = kv_heads * choice.choice([1, 2, 3])
    plain = {"rope_type": "default", "rope_theta": choice.choice([1e4, 5e5])}
    rope = choice.choice([plain, plain | {"rope_type": "linear", "factor": 3.0}, LLAMA3])
    return {
        "hidden_size": heads * choice.choice([8, 16, 24]),  # transformers wants a multiple of the heads
        "intermediate_size": choice.choice([50, 64, 128]),
        "num_hidden_layers": choice.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": choice.choice([8, 16, 32, 64]),
        "vocab_size": choice.choice([128, 201, 300]),
        "attention_bias": choice.random() < 0.5,
        "mlp_bias": choice.random() < 0.5,
        "tie_word_embeddings": choice.random() < 0.5,
        "rms_norm_eps": choice.choice([1e-5, 1e-6]),
        "rope_parameters": rope,
        "stored": choice.choice(["float32", "bfloat16", "float16"]),
    }


def make(folder: Path, settings: dict[str, Any], seed: int) -> None:
    """Write one model with its prompts and logits."""
    torch.manual_seed(seed)
    settings = COMMON | settings
    stored = getattr(torch, settings.pop("stored", "float32"))
    config = LlamaConfig(max_position_embeddings=256, bos_token_id=1, eos_token_id=2, **settings)
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name:
                values.copy_(1 + 0.2 * torch.randn(values.shape))
            else:
                values.copy_(torch.randn(values.shape) * (0.3 if values.dim() == 1 else 1.5 * values.shape[1] ** -0.5))
            values.copy_(values.to(stored).float())
    copy.deepcopy(model).to(stored).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    prompts = [torch.randint(config.vocab_size, (length,)) for length in LENGTHS]
    with torch.no_grad():
        logits = {str(i): model(prompt[None]).logits[0].contiguous() for i, prompt in enumerate(prompts)}
    (folder / "prompts.json").write_text(json.dumps([prompt.tolist() for prompt in prompts]) + "\n")
    save_file(logits, folder / "logits.safetensors")


def main(out: str, count: int = 0, seed: int = 0) -> None:
    """Write the folders."""
    choice = random.Random(seed)
    models = {f"random-{i}": random_config(choice) for i in range(count)} if count else NAMED
    for number, (name, settings) in enumerate(models.items()):
        make(Path(out) / name, settings, seed + number)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
