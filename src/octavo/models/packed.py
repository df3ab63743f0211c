"""Packed weights kept in a folder: written at a model's first start, mapped at every later one.

A kept file is named after its source and dtype, so a new version takes the place of the old one; its head holds all
that the packed bytes depend on: the source's files (path, size, time of change, hash of their headers), dtype, every
tensor and form, and our own version. Invariant: whatever is wrong with the folder, the weights are loaded, and are the
same bytes. Knows no architecture.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import octavo
from octavo.checkpoint.container import SUFFIX, kept_in, open_block, write_block
from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Mapped
from octavo.kernels.weight import FORMS
from octavo.models.entry import Entry
from octavo.models.load import Weights, block_bytes, load, packed_parts, plan, views
from octavo.models.spec import ModelSpec
from octavo.models.widened import warn
from octavo.quant.folder import settings_of

logger = logging.getLogger("octavo.models")


def load_kept(
    source: Source,
    spec: ModelSpec,
    folder: Path,
    *,
    dtype: str = "auto",
    quantization: str = "none",
    progress: Callable[[float], None] | None = None,
) -> Weights:
    """All weights, as `load` gives them: from the folder, or packed and kept there where that is possible.

    Raises ModelError as `load` does.
    """
    entries = plan(source, spec, dtype, quantization)
    warn(source, entries)
    kind = dtype if quantization == "none" else f"{dtype} {quantization}"
    head, size = identity(source, kind, entries), block_bytes(entries)
    path = folder / file_name(source, kind)
    block = open_block(path, head, size)
    if block is None:
        try:
            block = write_block(path, head, size, packed_parts(entries, progress))
        except OSError as error:
            logger.warning("%s: packed weights are not kept: %s", folder, error.strerror or error)
            return load(source, spec, dtype=dtype, quantization=quantization, progress=progress)
        _forget_orphans(folder)
    elif progress:
        progress(1.0)
    return views(entries, block)


def file_name(source: Source, dtype: str) -> str:
    """The name of what is kept of a source: readable, and one for each path and dtype."""
    digest = hashlib.sha256(f"{source.path.resolve()}\n{dtype}".encode(errors="surrogateescape")).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source.path.name)[:80]}-{digest[:16]}{SUFFIX}"


def identity(source: Source, dtype: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """All that packed bytes depend on, as JSON."""
    tensors = [
        [entry.key, entry.tensor.name, entry.tensor.dtype, *entry.tensor.shape, entry.nbytes, *entry.recipe]
        for entry in entries
    ]
    return {
        "octavo": octavo.__version__,
        "forms": FORMS,
        "source": str(source.path.resolve()),
        "files": [_stamp(source, file) for file in source.files],
        "dtype": dtype,
        "quantization": settings_of(source),
        "tensors": tensors,
    }


def _stamp(source: Source, file: Mapped) -> list[str | int]:
    """What tells versions of a file apart: name, size, time of change, hash of all before the first tensor."""
    starts = (part.start for tensor in source.tensors.values() for part in tensor.parts if part.file is file)
    first = min(starts, default=0)
    return [file.path.name, file.size, file.mtime_ns, hashlib.sha256(memoryview(file.data)[:first]).hexdigest()]


def _forget_orphans(folder: Path) -> None:
    """Remove what is kept of sources that are gone."""
    for file in kept_in(folder):
        if not Path(str(file.head.get("source"))).exists():
            with suppress(OSError):
                file.path.unlink()
