"""Matrices that a file has in codes and the kernels as plain numbers: said in one line, since they take more memory
and time. Why it happens: docs/folders.md, docs/gguf.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from octavo.checkpoint.source import Source
from octavo.core.table import binary
from octavo.kernels.weight import Layout
from octavo.models.entry import Entry
from octavo.quant.plain import PLAIN

logger = logging.getLogger("octavo.models")


def widened(entries: Sequence[Entry]) -> list[Entry]:
    """Those of the entries that are kept as plain numbers though they are stored in codes."""
    plain = [entry for entry in entries if entry.form and entry.form.layout in (Layout.F32, Layout.BF16)]
    return [entry for entry in plain if not all(part.dtype in PLAIN for part in entry.tensor.parts)]


def told(entries: Sequence[Entry]) -> str:
    """One line on them; nothing where there are none."""
    found = widened(entries)
    if not found:
        return ""
    forms = " and ".join(sorted({entry.form.layout.name for entry in found if entry.form}))
    stored, kept = (sum(sizes) for sizes in zip(*((e.stored_bytes, e.nbytes) for e in found), strict=True))
    return (
        f"{len(found)} of {len(entries)} weights, {binary(stored)} in codes, run as {forms}, {binary(kept)} and as "
        f"slow, the first being {found[0].key}: docs/folders.md says why"
    )


def warn(source: Source, entries: Sequence[Entry]) -> None:
    """Log the line."""
    line = told(entries)
    if line:
        logger.warning("%s: %s", source.path, line)
