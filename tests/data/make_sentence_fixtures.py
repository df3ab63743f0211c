"""Tiny random models of sentence-transformers, saved by it, with the vectors that it gives of texts in float32.

usage: make_sentence_fixtures.py OUT     all rows of MODELS, committed as tests/data/sentences

Each becomes a folder as it is saved, and expected.json: the longest text in tokens, and of each of TEXTS its vector.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from make_classifier_fixtures import ENCODER, TINY
from make_zoo_fixtures import ENDS, liven
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"abcdefghijklmnopqrstuvwxyz",
    "the",
    "cat",
    "dog",
    "The",
    "CAT",
    "runs",
    ".",
]
TEXTS = ["the cat runs.", "The CAT", "dog", "a b c d e f g h i j k l m n o p q r s t u v w x y z the dog. " * 3]
LONGEST = 40
# Row: name -> settings of the transformer, how it pools, layers behind it, whether vectors get length 1
MODELS: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]], bool]] = {
    "mean": (ENCODER | {"type": "bert"}, "mean", [], True),
    "cls-dense": (
        ENCODER | {"type": "roberta", "pad_token_id": 1, "type_vocab_size": 1},
        "cls",
        [{"out_features": 24, "activation_function": torch.nn.Tanh()}],
        False,
    ),
    "last-two-dense": (
        TINY | {"type": "qwen3", "head_dim": 16},
        "lasttoken",
        [
            {"out_features": 40, "activation_function": torch.nn.GELU(), "bias": False},
            {"out_features": 16, "activation_function": torch.nn.Identity()},
        ],
        True,
    ),
    "modernbert": (
        ENCODER | {"type": "modernbert"},
        "mean",
        [{"out_features": 8, "activation_function": torch.nn.ReLU()}],
        True,
    ),
    "lower": (ENCODER | {"type": "bert"}, "mean", [], True),
}


def tokenizer(marks: bool) -> PreTrainedTokenizerFast:
    """Words, capitals told apart; with marks around a text, or none."""
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    if marks:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=LONGEST, **named)


def transformer(folder: Path, settings: dict[str, Any]) -> None:
    """A folder of transformers."""
    settings = ENDS | settings
    config = AutoConfig.for_model(settings.pop("type"), **settings)
    model = AutoModel.from_config(config, attn_implementation="eager").float().eval()
    liven(model, torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer(config.model_type != "qwen3").save_pretrained(folder)


def make(folder: Path, name: str) -> None:
    """Write one model with its vectors."""
    settings, kind, layers, normalize = MODELS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    with tempfile.TemporaryDirectory() as plain:
        transformer(Path(plain), settings)
        first = Transformer(
            plain, model_kwargs={"dtype": torch.float32}, processor_kwargs={"model_max_length": LONGEST}
        )
        modules: list[torch.nn.Module] = [first, Pooling(settings["hidden_size"], pooling_mode=kind)]
        width = settings["hidden_size"]
        for layer in layers:
            modules.append(Dense(width, **layer))
            width = layer["out_features"]
        model = SentenceTransformer(modules=[*modules, *([Normalize()] if normalize else [])], device="cpu")
        shutil.rmtree(folder, ignore_errors=True)
        model.save(str(folder), create_model_card=False)
    if name == "lower":  # as older versions said so
        told = {"max_seq_length": LONGEST, "do_lower_case": True}
        (folder / "sentence_bert_config.json").write_text(json.dumps(told))
        model = SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(TEXTS, batch_size=1).tolist()
    found = {"longest": model.max_seq_length, "texts": TEXTS, "vectors": vectors}
    (folder / "expected.json").write_text(json.dumps(found) + "\n")


def main(out: str) -> None:
    """Write the folders."""
    for name in MODELS:
        make(Path(out) / name, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
