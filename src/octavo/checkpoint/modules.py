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

KINDS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # of pooling
OLD = "pooling_mode_"  # with which older files' flags begin, one for each kind
FLAGS = {"cls_token": "cls", "mean_tokens": "mean"}  # flags whose kind has another name
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
UNLIMITED = 1_000_000  # tokens that no model takes; tokenizers without a limit say 10^30


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
    listed = [(kind, place) for kind, place in _listed(path) if kind != "Dropout"]  # which does nothing
    kinds = [kind for kind, _ in listed]
    for kind in kinds:
        if kind not in ORDER:
            raise ModelError(f"{path}: a module {kind[:100]!r} is not supported; Pooling, Dense and Normalize are")
    if kinds.count("Pooling") != 1 or kinds != sorted(kinds, key=ORDER.index):
        told = f"expected {', '.join(ORDER)}, in this order, and one Pooling"
        raise ModelError(f"{path}: {', '.join(kinds)[:200]}: this order is not supported; {told}")
    limits = _optional(folder / "sentence_bert_config.json")
    _check_prompt(folder)
    pooling = next(_pooling(place / "config.json") for kind, place in listed if kind == "Pooling")
    dense = tuple((read_json(place / "config.json"), place) for kind, place in listed if kind == "Dense")
    return Modules(pooling, dense, "Normalize" in kinds, _longest(folder, limits), limits.get("do_lower_case") is True)


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


def _optional(path: Path) -> dict[str, Any]:
    """The settings in a file; none where there is no file."""
    return read_json(path) if path.is_file() else {}


def _longest(folder: Path, limits: Mapping[str, Any]) -> int:
    """Tokens of the longest text, 0: no word of it. Newer folders leave it to the tokenizer."""
    for name, key, settings in (
        ("sentence_bert_config.json", "max_seq_length", limits),
        ("tokenizer_config.json", "model_max_length", _optional(folder / "tokenizer_config.json")),
    ):
        longest = settings.get(key) or 0
        if type(longest) not in (int, float) or longest < 0:
            raise ModelError(f"{folder / name}: {key}: {str(longest)[:100]!r} is not a number of tokens")
        if longest:
            return int(longest) if longest < UNLIMITED else 0
    return 0


def _check_prompt(folder: Path) -> None:
    """Refuse what would be put before every text without being asked for."""
    path = folder / "config_sentence_transformers.json"
    if (prompt := _optional(path).get("default_prompt_name")) is not None:
        told = "set it to null, and give texts with their prompts"
        raise ModelError(f"{path}: default_prompt_name: {str(prompt)[:100]!r} is not supported; {told}")


def _pooling(path: Path) -> str:
    """How tokens become one vector."""
    config = read_json(path)
    flags = [name.removeprefix(OLD) for name, value in config.items() if name.startswith(OLD) and value is True]
    chosen = config.get("pooling_mode", [FLAGS.get(flag, flag) for flag in flags])
    modes = chosen if isinstance(chosen, list) else [chosen]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in KINDS:
        shown = " and ".join(map(str, modes))[:100]
        raise ModelError(f"{path}: pooling_mode: {shown!r} is not supported; expected one of {', '.join(KINDS)}")
    return KINDS[modes[0]]
