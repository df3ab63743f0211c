"""Whole folders of a tiny Llama as llm-compressor writes them, and the logits of the weights they hold.

usage: make_compressed_folders.py OUT [KIND...]    (committed as tests/data/compressed)

Needs llmcompressor (made with 0.14.0.1, compressed-tensors 0.19.0, transformers 5.17.0, torch 2.13.0). Each kind
becomes a folder, as saved, and in it prompts.json and logits.safetensors: the float32 logits that transformers gives
for the decompressed weights, activations not quantized.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCAB = 96
CONFIG = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
PLAIN = {"targets": "Linear", "ignore": ["lm_head"]}


def recipes() -> dict[str, Any]:
    """What llm-compressor is asked to do, by kind."""
    return {
        "w4a16-static": GPTQModifier(scheme="W4A16", actorder="static", **PLAIN),
        "w4a16-zeros": GPTQModifier(scheme="W4A16_ASYM", actorder=None, **PLAIN),
        "w8a8": GPTQModifier(scheme="W8A8", **PLAIN),
        "fp8-dynamic": QuantizationModifier(scheme="FP8_DYNAMIC", **PLAIN),
        "fp8-block": QuantizationModifier(scheme="FP8_BLOCK", **PLAIN),
    }


def save_plain(folder: Path) -> PreTrainedTokenizerFast:
    """The model before it is quantized, and a tokenizer, which llm-compressor asks for."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0")
    tokenizer.save_pretrained(folder)
    return tokenizer


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Of the folder's weights, decompressed into a plain model. [tokens, vocab]"""
    unpacked = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    )
    plain = LlamaForCausalLM(CONFIG)
    plain.load_state_dict({name: value for name, value in unpacked.state_dict().items() if name in plain.state_dict()})
    with torch.no_grad():
        return plain.eval()(ids[None]).logits[0]


def main(out: str, *kinds: str) -> None:
    """Write the folders."""
    with tempfile.TemporaryDirectory() as before:
        tokenizer = save_plain(Path(before))
        for kind in kinds or recipes():
            model = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32)
            torch.manual_seed(1)
            texts = torch.randint(0, VOCAB, (16, 48)).tolist()
            data = Dataset.from_dict({"input_ids": texts, "attention_mask": [[1] * 48] * 16})
            oneshot(
                model=model,
                dataset=data,
                processor=tokenizer,
                recipe=[recipes()[kind]],
                max_seq_length=48,
                num_calibration_samples=16,
                pipeline="basic",
            )
            folder = Path(out) / kind
            model.save_pretrained(folder, save_compressed=True)
            ids = torch.randint(0, VOCAB, (24,))
            save_file({"0": logits(folder, ids)}, folder / "logits.safetensors")
            (folder / "prompts.json").write_text(json.dumps([ids.tolist()]))
            for name in ("recipe.yaml", "generation_config.json"):
                (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
