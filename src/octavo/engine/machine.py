"""What the operating system says of this processor and of huge pages. Reads /proc and /sys only.

Every function takes the root of the file system, so that a test can lay out a machine of its own. A fact that the
system does not tell is None. Limits of memory and cores are engine/limits.py's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache, as the first core sees it. `shared_by` counts the logical processors that share it."""

    level: int
    kind: str
    size_bytes: int
    shared_by: int


def cpu_name(root: Path = ROOT) -> str | None:
    """The processor's name."""
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found[1].strip() if found else None


def usable_cpus() -> list[int]:
    """The logical processors this process may run on."""
    return sorted(os.sched_getaffinity(0))


def cores(root: Path = ROOT) -> int | None:
    """Physical cores that are online: logical processors that share one are counted once."""
    lists = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({_text(path) for path in lists}) or None


def numa_nodes(root: Path = ROOT) -> int:
    """Memory nodes; 1 where the system does not tell."""
    return len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or 1


def caches(root: Path = ROOT) -> list[Cache]:
    """Caches of the first core, nearest first."""
    found = []
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and kind and size:
            scale = {"K": 2**10, "M": 2**20}.get(size[-1], 1)
            shared = _count(_text(index / "shared_cpu_list") or "0")
            found.append(Cache(int(level), kind.lower(), int(size.rstrip("KM")) * scale, shared))
    return found


def huge_pages(root: Path = ROOT) -> str | None:
    """Transparent huge pages: "always", "madvise" or "never"."""
    found = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return found[1] if found else None


def _text(path: Path) -> str | None:
    """A small file's text, None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _count(cpus: str) -> int:
    """How many numbers a list such as 0-3,8 names."""
    spans = [part.split("-") for part in cpus.split(",")]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
