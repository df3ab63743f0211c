"""What sentence-transformers puts behind a model: modules.json and the folders it names, read into plain data.

A folder without modules.json has none. Modules that are not known are refused: vectors without them would be others.
Format: sbert.net, package sentence_transformers. Knows no tensor beyond which file holds a module's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.checkpoint.safetensors import read_json
from octavo.core.errors import ModelError

KINDS = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}  # of pooling, after pooling_mode_
NAMES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # the same where pooling_mode is one word
SKIPPED = ("Transformer", "Dropout")  # what is read elsewhere, or does nothing


@dataclass(frozen=True, slots=True)
class Modules:
    """pooling: "cls", "mean" or "last". dense: settings and folder of each Dense layer, in order. normalize: whether
    vectors get length 1. max_len: tokens of the longest text, 0: as the model says. lower: texts are lowered first."""

    pooling: str
    dense: tuple[tuple[Mapping[str, Any], Path], ...] = ()
    normalize: bool = False
    max_len: int = 0
    lower: bool = False


def read_modules(folder: Path) -> Modules | None:
    """The modules of a folder, or None. Raises ModelError."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    pooling, dense, normalize = "", [], False
    for kind, place in _listed(path):
        if kind == "Pooling":
            pooling = _pooling(place / "config.json")
        elif kind == "Dense":
            dense.append((read_json(place / "config.json"), place))
        elif kind == "Normalize":
            normalize = True
        elif kind not in SKIPPED:
            raise ModelError(f"{path}: a module {kind[:100]!r} is not supported; Pooling, Dense and Normalize are")
    if not pooling:
        raise ModelError(f"{path}: names no Pooling module")
    limits = read_json(file) if (file := folder / "sentence_bert_config.json").is_file() else {}
    longest = limits.get("max_seq_length") or 0
    if type(longest) is not int or longest < 0:
        raise ModelError(f"{file}: max_seq_length: {longest!r} is not a number of tokens")
    return Modules(pooling, tuple(dense), normalize, longest, limits.get("do_lower_case") is True)


def _listed(path: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module, in order."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        entries = [(str(entry["type"]), str(entry["path"])) for entry in listed]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        raise ModelError(f"{path}: not a list of modules, each with type and path") from None
    for _, place in entries:
        if place in (".", "..") or set(place) & set("/\\\0"):
            raise ModelError(f"{path}: path: {place[:100]!r} is not a folder beside it")
    return [(kind.rpartition(".")[2], path.parent / place) for kind, place in entries]


def _pooling(path: Path) -> str:
    """How tokens become one vector."""
    config = read_json(path)
    chosen = [name.removeprefix("pooling_mode_") for name, value in config.items() if value is True]
    chosen = [name for name in chosen if name != "include_prompt"]
    if "pooling_mode" in config:
        chosen = [next((mode for mode, kind in KINDS.items() if kind == NAMES.get(config["pooling_mode"])), "?")]
    if len(chosen) != 1 or chosen[0] not in KINDS:
        shown = str(config.get("pooling_mode", " and ".join(chosen)))[:100]
        raise ModelError(f"{path}: pooling_mode: {shown!r} is not supported; expected one of {', '.join(KINDS)}")
    return KINDS[chosen[0]]
