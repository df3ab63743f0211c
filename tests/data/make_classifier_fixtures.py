"""Tiny random models with a head of labels, with the scores that transformers gives for them in float32.

usage: make_classifier_fixtures.py OUT     all rows of MODELS, committed as tests/data/classifiers

Each becomes a folder: config.json and model.safetensors, and expected.json: for each prompt its token ids, the number
of them that are of the first type (0: all), and its scores before any activation.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from make_zoo_fixtures import ENDS, LENGTHS, SMALL, VOCAB, liven
from transformers import AutoConfig, AutoModelForSequenceClassification

TINY = SMALL | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 90}
ENCODER = TINY | {"num_attention_heads": 2}
NAMED = {"id2label": {0: "calm", 1: "odd", 2: "wild"}, "label2id": {"calm": 0, "odd": 1, "wild": 2}}
# Row: name -> model_type and settings
MODELS: dict[str, dict[str, Any]] = {
    "bert": ENCODER | NAMED | {"type": "bert"},
    "roberta": ENCODER
    | {"type": "roberta", "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1, "num_labels": 1},
    "xlm-roberta": ENCODER
    | {"type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1, "num_labels": 2},
    "modernbert": ENCODER
    | NAMED
    | {"type": "modernbert", "classifier_pooling": "mean", "problem_type": "multi_label_classification"},
    "modernbert-first": ENCODER
    | {"type": "modernbert", "classifier_pooling": "cls", "classifier_bias": True, "norm_bias": True, "num_labels": 1},
    "llama": TINY | NAMED | {"type": "llama"},
    "qwen2": TINY | {"type": "qwen2", "num_labels": 1},
    "qwen3": TINY | {"type": "qwen3", "head_dim": 16, "num_labels": 2, "tie_word_embeddings": True},
    "mistral": TINY | {"type": "mistral", "head_dim": 8, "sliding_window": 20, "num_labels": 2},
    "gemma": TINY | {"type": "gemma", "head_dim": 16, "num_labels": 1, "problem_type": "regression"},
    "gpt2": {"type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 90, "num_labels": 2},
}


def make(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Write one model with its prompts and scores."""
    torch.manual_seed(zlib.crc32(name.encode()))
    settings = ENDS | settings
    config = AutoConfig.for_model(settings.pop("type"), **settings)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float().eval()
    liven(model, torch.bfloat16)
    prompts = [torch.randint(3, VOCAB, (length,)) for length in (*LENGTHS, 33)]
    expected = []
    for number, prompt in enumerate(prompts):
        second = len(prompt) // 3 if number and getattr(config, "type_vocab_size", 1) > 1 else 0
        types = {"token_type_ids": (torch.arange(len(prompt)) >= second).long()[None]} if second else {}
        with torch.no_grad():
            scores = model(prompt[None], **types).logits[0]
        expected.append({"ids": prompt.tolist(), "second": second, "scores": scores.tolist()})
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "expected.json").write_text("[\n" + ",\n".join(map(json.dumps, expected)) + "\n]\n")


def main(out: str) -> None:
    """Write the folders."""
    for name, settings in MODELS.items():
        make(Path(out) / name, name, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
