"""Tokenizers for tests: from the committed vocabularies, and a source that holds metadata or a folder's files."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.text.tokenizer import Tokenizer, load_tokenizer

DATA = Path(__file__).parents[1] / "data" / "text"


@dataclass(frozen=True)
class Held:
    """As much of checkpoint.source.Source as a tokenizer is loaded from."""

    kind: str = "gguf"
    metadata: dict[str, Any] = field(default_factory=dict)
    path: Path = Path("held")
    config: dict[str, Any] = field(default_factory=dict)
    modules: Any = None

    def file(self, name: str) -> Path | None:
        found = self.path / name
        return found if found.is_file() else None


def read(name: str) -> Any:
    """A committed fixture."""
    raw = (DATA / name).read_bytes()
    return json.loads(gzip.decompress(raw) if name.endswith(".gz") else raw)


def smollm2() -> Tokenizer:
    """The default model's: byte-level BPE of 49152 tokens."""
    return tokenizer_of(read("smollm2_vocab.json.gz"))


def spm() -> Tokenizer:
    """A small SentencePiece vocabulary: bos in front, a space in front, bytes for what is not in it."""
    return tokenizer_of(read("spm_vocab.json"))


def tokenizer_of(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that GGUF metadata describes."""
    tokenizer = load_tokenizer(Held(metadata=metadata))
    assert tokenizer is not None
    return tokenizer
