"""A checkpoint as one thing, whatever its format: settings, tensors, the files beside them. Knows no model.

A source is a GGUF file or the first of its parts, or a folder of safetensors, or of the older pytorch_model.bin, with
its config.json. It stays open, its tensors lazy, until `close`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.checkpoint.modules import Modules, read_modules
from octavo.checkpoint.safetensors import INDEX, SINGLE, read_json, read_shards, read_tensors
from octavo.checkpoint.split import is_later_part, open_gguf
from octavo.checkpoint.tensor import Derived, Mapped, Tensor, Tensors
from octavo.checkpoint.torchfile import read_torch
from octavo.core.errors import ModelError

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

__all__ = ["Source", "Tensor", "open_source"]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An open checkpoint. kind: "gguf", with `metadata`; or "safetensors", a folder, with `config` (config.json).

    modules: of sentence-transformers, where there are any; tensors of their n-th Dense layer have "n_" before the name.
    """

    path: Path
    kind: str
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Tensors
    files: tuple[Mapped, ...] = field(default=(), repr=False)
    modules: Modules | None = None

    def file(self, name: str) -> Path | None:
        """A file beside the weights, such as tokenizer.json; None where there is none, and for GGUF."""
        found = self.path / name
        return found if self.kind == "safetensors" and found.is_file() else None

    def close(self) -> None:
        """Unmap the files. Arrays read before stay valid; reading afterwards is an error."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(path: Path) -> Source:
    """Open a .gguf file, a folder of safetensors, or one that holds one .gguf model. Raises ModelError, of one line."""
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, false for names no file system can hold
        return _open_folder(path)
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file or folder; expected a .gguf file or a folder with config.json")
    if path.suffix == ".safetensors":
        raise ModelError(f"{path}: give the folder that holds it and its config.json")
    files, metadata, tensors = open_gguf(path)
    return Source(path, "gguf", metadata, {}, tensors, files)


def _open_folder(path: Path) -> Source:
    """A Hugging Face model folder, or the only .gguf in a folder."""
    if any((path / name).exists() for name in (SINGLE, INDEX, BIN, BIN_INDEX)):
        if not (path / "config.json").is_file():
            raise ModelError(f"{path}: config.json is missing")
        config, modules = read_json(path / "config.json"), read_modules(path)
        files: list[Mapped] = []
        tensors: dict[str, Tensor | Derived] = {}
        for number, folder in enumerate([path, *(folder for _, folder in modules.dense)] if modules else [path]):
            mapped, read = _read_folder(folder)
            files += mapped
            tensors |= {f"{number}_{name}" if number else name: tensor for name, tensor in read.items()}
        return Source(path, "safetensors", {}, config, tensors, tuple(files), modules)
    found = sorted(file for file in path.glob("*.gguf") if not is_later_part(file.name))
    if len(found) == 1:
        return open_source(found[0])
    if found:
        raise ModelError(f"{path}: holds {len(found)} .gguf files, name one of them: {found[0]}, ...")
    raise ModelError(f"{path}: holds neither {SINGLE} nor {INDEX} nor {BIN} nor a .gguf file")


def _read_folder(path: Path) -> tuple[list[Mapped], Tensors]:
    """The tensors of a folder, of safetensors where there are both kinds."""
    if (path / SINGLE).exists() or (path / INDEX).exists():
        return read_tensors(path)
    return read_shards(path, BIN, BIN_INDEX, read_torch)
