"""A model repository on a Hugging Face hub, fetched through huggingface_hub into the cache. Knows no model.

Only the files the engine reads are fetched. Where the hub cannot be asked, what was fetched before is used.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from octavo.checkpoint.split import parts_of
from octavo.checkpoint.wheel import Progress
from octavo.core.errors import ModelError

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "[0-9]_*/config.json",  # of the modules of sentence-transformers
    "[0-9]_*/model.safetensors",
)
SAFETENSORS = "model*.safetensors"
PICKLED = {  # what is fetched where there are no files of the first pattern
    SAFETENSORS: ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    "[0-9]_*/model.safetensors": ("[0-9]_*/pytorch_model.bin",),
}
PAPERS = ("README.md", "LICENSE*")
POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 20.0


def fetch_repository(
    repository: str,
    file: str | None,
    cache_dir: Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a repository, or its .gguf `file` with its other parts, in `cache_dir`.

    Raises ModelError with a short reason.
    """
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    patterns = [*(map(glob.escape, parts_of(file)) if file else FILES), *PAPERS]
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token, "endpoint": endpoint}
    label = repository if revision is None else f"{repository} at revision {revision}"
    try:
        sizes = _sizes(repository, revision, token, endpoint)
    except Exception as error:  # of the hub's client: its transport's errors differ from version to version
        try:
            kept = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=True, **options))
        except Exception:
            unknown = "the hub cannot be reached, and the model was not fetched before"
            raise ModelError(f"{label}: {_reason(error, unknown)}") from error
        return kept / file if file else kept
    _check_listing(label, file, list(sizes))
    for wanted, pickled in PICKLED.items():
        if not file and not _any_of(wanted, sizes):
            patterns += pickled
    total = sum(size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in patterns))
    blobs = cache_dir / f"models--{repository.replace('/', '--')}" / "blobs"
    try:
        with _watched(label, blobs, total, progress):
            found = snapshot_download(repository, allow_patterns=patterns, tqdm_class=_silent(), **options)
    except Exception as error:
        raise ModelError(f"{label}: {_reason(error, 'the transfer broke off; try again')}") from error
    return Path(found) / file if file else Path(found)


def _sizes(repository: str, revision: str | None, token: str | None, endpoint: str | None) -> dict[str, int]:
    """Bytes of each file of the repository, as the hub says."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    info = api.model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
    return {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}


def _check_listing(label: str, file: str | None, names: list[str]) -> None:
    """Refuse a repository without anything to load, saying what it has."""
    ggufs = [name for name in names if name.endswith(".gguf")]
    listed = f"; its .gguf files are {', '.join(ggufs[:8])}" if ggufs else "; it has no .gguf files"
    missing = [part for part in parts_of(file) if part not in names] if file else []
    if missing:
        raise ModelError(f"{label}: there is no {missing[0]}{listed}")
    if not file and not _any_of(SAFETENSORS, names) and not _any_of("pytorch_model*.bin", names):
        hint = f"{listed}: name one, as in {label}/{ggufs[0]}" if ggufs else ""
        raise ModelError(f"{label}: there are no safetensors files{hint}")


def _any_of(pattern: str, names: Iterable[str]) -> bool:
    """Whether there is a file of this pattern."""
    return any(fnmatch(name, pattern) for name in names)


def _silent() -> type[Any]:
    """A progress bar that shows nothing: the library's own would draw over ours."""
    from tqdm import tqdm

    def begin(self: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)
        tqdm.__init__(self, *args, **{**options, "disable": True})

    return type("Silent", (tqdm,), {"__init__": begin})


@contextmanager
def _watched(label: str, blobs: Path, total: int, progress: Progress | None) -> Iterator[None]:
    """Report how the folder of fetched files grows, from a thread of its own, and the end if anything was fetched."""
    if progress is None:
        yield
        return
    before, done = _folder_bytes(blobs), threading.Event()

    def watch() -> None:
        shown = 0
        while not done.wait(POLL_SECONDS):
            grown = _folder_bytes(blobs) - before
            if grown > shown:
                shown = grown
                progress(label, min(grown, total), total)

    watcher = threading.Thread(target=watch, daemon=True, name="octavo-fetch")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    if _folder_bytes(blobs) > before:
        progress(label, total, total)


def _folder_bytes(folder: Path) -> int:
    """Bytes of a folder's files, while they come and go."""
    size = 0
    try:
        for entry in os.scandir(folder):
            size += entry.stat().st_size
    except OSError:
        return size
    return size


def _reason(error: Exception, otherwise: str) -> str:
    """What went wrong and what would help, in one line; `otherwise` where the hub did not say."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated: accept its terms on the hub, and give a token that may read it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such folder or file here, and no such repository on the hub (if it is private, give a token)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the hub answered with status {status}"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{otherwise} ({first[:160]})"
