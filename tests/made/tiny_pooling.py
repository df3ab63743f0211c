"""Tiny models that pool, with a tokenizer of words: folders of committed weights, as their makers save them.

`embedder`: BERT, mean of tokens, length 1 (as sentence-transformers). `classifier`: three labels. `cross_encoder`:
the same with one label. The embedder takes at most LONGEST tokens of a text.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import safetensors_file
import tokenizers
import zoo_gguf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

DATA = Path(__file__).parents[1] / "data"
LONGEST = 64
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##s", "##ing", ".", ",", "!", *"abcdefghijklmnopqrstuvwxyz"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
WORDS += ["the", "cat", "dog", "runs", "sleeps", "fast", "payment", "city", "amount", "night", "day", "red", "blue"]


def embedder(path: Path) -> Path:
    """A folder of sentence-transformers."""
    _copy(DATA / "zoo" / "bert", path)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    return path


def classifier(path: Path) -> Path:
    """A folder of transformers, with labels calm, odd and wild."""
    return _copy(DATA / "classifiers" / "bert", path)


def cross_encoder(path: Path) -> Path:
    """The classifier with its first label alone."""
    _copy(DATA / "classifiers" / "bert", path)
    tensors = zoo_gguf.read(path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][:1].copy()
    safetensors_file.write(path / "model.safetensors", tensors)
    config = json.loads((path / "config.json").read_text()) | {"id2label": {"0": "match"}, "label2id": {"match": 0}}
    (path / "config.json").write_text(json.dumps(config))
    return path


def _copy(source: Path, path: Path) -> Path:
    """Weights and settings of a folder, with a tokenizer."""
    path.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, path / name)
    vocab = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(WORDS[:4])
    made.save(str(path / "tokenizer.json"))
    return path
