"""Whole folders of a tiny Llama as the tools that people use write them, and the logits of the weights they hold.

usage: make_tool_folders.py OUT [KIND...]    (committed as tests/data/folders)

The tools: llmcompressor (0.14.0.1 with compressed-tensors 0.19.0), gptqmodel (7.7.0) and bitsandbytes (0.50.2), which
want different versions of transformers and torch, and ran with 5.17.0 and 2.13.0; on two cores the second wants
GPTQMODEL_CPU_WORKERS=2. Each kind becomes a folder, as saved, and in it prompts.json and logits.safetensors: the
float32 logits that transformers gives for the unpacked weights, activations not quantized.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
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
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    return {
        "w4a16-static": GPTQModifier(scheme="W4A16", actorder="static", **PLAIN),
        "w4a16-zeros": GPTQModifier(scheme="W4A16_ASYM", actorder=None, **PLAIN),
        "w8a8": GPTQModifier(scheme="W8A8", **PLAIN),
        "fp8-dynamic": QuantizationModifier(scheme="FP8_DYNAMIC", **PLAIN),
        "fp8-block": QuantizationModifier(scheme="FP8_BLOCK", **PLAIN),
        "nvfp4": QuantizationModifier(scheme="NVFP4A16", **PLAIN),
        "mxfp4": QuantizationModifier(scheme="MXFP4A16", **PLAIN),
    }


GPTQ = {
    "gptq-act-order": {"bits": 4, "group_size": 32, "desc_act": True, "sym": True},
    "gptq-zeros": {"bits": 4, "group_size": 32, "desc_act": False, "sym": False},
    "gptq-v2": {"bits": 8, "group_size": 64, "desc_act": False, "sym": True, "format": "gptq_v2"},
}


BITSANDBYTES = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
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


def compress(kind: str, before: Path, folder: Path, tokenizer: Any) -> dict[str, torch.Tensor]:
    """A folder of llm-compressor; its weights, unpacked, as far as they have other names or values than plain ones."""
    from datasets import Dataset
    from llmcompressor import oneshot

    model = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32)
    ids = texts()
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(ids[0])] * len(ids)}),
        processor=tokenizer,
        recipe=[recipes()[kind]],
        max_seq_length=len(ids[0]),
        num_calibration_samples=len(ids),
        pipeline="basic",
    )
    model.save_pretrained(folder, save_compressed=True)
    unpacked = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    )
    return unpacked.state_dict()


def gptq(kind: str, before: Path, folder: Path) -> dict[str, torch.Tensor]:
    """As `compress`, of GPTQModel."""
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    model = GPTQModel.load(str(before), QuantizeConfig(**GPTQ[kind]), dtype=torch.float32)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in texts()], batch_size=1)
    model.save(str(folder))
    stored = load_file(folder / "model.safetensors")
    packed = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu").model
    unpacked = {}
    for name, module in packed.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = stored[f"{name}.scales"].float()  # it was rounded to bfloat16 when loaded
            unpacked[f"{name}.weight"] = module.dequantize_weight().T
    return stored | unpacked


def bitsandbytes(kind: str, before: Path, folder: Path) -> dict[str, torch.Tensor]:
    """As `compress`, of transformers with bitsandbytes."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers import BitsAndBytesConfig

    asked = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **BITSANDBYTES[kind])
    model = AutoModelForCausalLM.from_pretrained(before, dtype=torch.float32, quantization_config=asked)
    model.save_pretrained(folder)
    unpacked = {}
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        unpacked[name] = parameter.detach() if state is None else dequantize_4bit(parameter.detach(), state)
    return unpacked


def texts() -> list[list[int]]:
    """What the tools calibrate with."""
    torch.manual_seed(1)
    return torch.randint(0, VOCAB, (16, 48)).tolist()


def logits(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Of a plain model. [tokens, vocab]"""
    plain = LlamaForCausalLM(CONFIG)
    plain.load_state_dict({name: weights[name].float() for name in plain.state_dict()})
    with torch.no_grad():
        return plain.eval()(ids[None]).logits[0]


def main(out: str, *kinds: str) -> None:
    """Write the folders."""
    with tempfile.TemporaryDirectory() as plain:
        before = Path(plain)
        tokenizer = save_plain(before)
        for kind in kinds or (*recipes(), *GPTQ, *BITSANDBYTES):
            folder = Path(out) / kind
            if kind in BITSANDBYTES:
                weights = bitsandbytes(kind, before, folder)
            else:
                weights = gptq(kind, before, folder) if kind in GPTQ else compress(kind, before, folder, tokenizer)
            torch.manual_seed(2)
            ids = torch.randint(0, VOCAB, (24,))
            save_file({"0": logits(weights, ids)}, folder / "logits.safetensors")
            (folder / "prompts.json").write_text(json.dumps([ids.tolist()]))
            kept = {"config.json", "quantize_config.json", "model.safetensors", "logits.safetensors", "prompts.json"}
            for path in folder.iterdir():
                if path.name not in kept:
                    path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
