"""What this process may take: memory and cores, as the machine and its control groups (cgroup v1, v2) leave them.

Every group from ours up to the mount's root binds, so the smallest answer counts. File pages that nobody uses are
free for the taking and are not counted as used. Reads /proc and /sys only; knows no model.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the Linux kernel; proc(5) for mountinfo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """total_bytes: the most we could ever have; available_bytes: what is left of it. `source`: who says so."""

    total_bytes: int
    available_bytes: int
    source: str


def memory_limit(proc: Path = PROC) -> MemoryLimit:
    """The tightest of the machine's memory and the limits of all our control groups."""
    info = _fields(proc / "meminfo")
    machine = MemoryLimit(info["MemTotal"] * 1024, info.get("MemAvailable", info["MemFree"]) * 1024, "the machine")
    tightest = machine
    for folder, version in _groups(proc, "memory"):
        found = _group_memory(folder, version)
        if found is not None and found.available_bytes < tightest.available_bytes:
            tightest = found
    total = min([machine.total_bytes, tightest.total_bytes])
    return MemoryLimit(total, tightest.available_bytes, tightest.source)


def cores(proc: Path = PROC) -> int:
    """Cores we may run on: our affinity mask, less where a control group's time quota is smaller."""
    found = len(os.sched_getaffinity(0))
    for folder, version in _groups(proc, "cpu"):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            found = min(found, -(-int(quota) // int(period)))
    return max(found, 1)


def resident_bytes(proc: Path = PROC) -> int:
    """Memory this process holds now."""
    return _fields(proc / "self" / "status")["VmRSS"] * 1024


def _group_memory(folder: Path, version: int) -> MemoryLimit | None:
    """One group's limit and what is left under it; None where it has no limit."""
    if version == 2:
        limit, used, stat = _text(folder / "memory.max"), _text(folder / "memory.current"), "inactive_file"
    else:
        limit, used = _text(folder / "memory.limit_in_bytes"), _text(folder / "memory.usage_in_bytes")
        stat = "total_inactive_file"
    if not limit.isdigit() or not used.isdigit() or int(limit) >= 2**62:  # "max", or v1's largest number: none
        return None
    idle = _fields(folder / "memory.stat").get(stat, 0)
    left = int(limit) - max(int(used) - idle, 0)
    return MemoryLimit(int(limit), max(left, 0), f"the control group {folder}")


def _groups(proc: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of our groups for a controller, innermost first, with the version: v2 and v1, where mounted."""
    mounts = list(_mounts(proc))
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        version = 2 if number == "0" and not names else 1
        if version == 1 and controller not in names.split(","):
            continue
        for kind, root, point, options in mounts:
            if kind == ("cgroup2" if version == 2 else "cgroup") and (version == 2 or controller in options):
                yield from ((folder, version) for folder in _upwards(path, root, point))
                break


def _upwards(path: str, root: str, point: Path) -> Iterator[Path]:
    """The group's folder and its ancestors within the mount. In a container the mount may show less than the path."""
    inside = path.removeprefix(root.rstrip("/")).lstrip("/") if path.startswith(root) else ""
    folder = point / inside
    if not folder.is_dir():
        folder = point
    while True:
        yield folder
        if folder == point or point not in folder.parents:
            return
        folder = folder.parent


def _mounts(proc: Path) -> Iterator[tuple[str, str, Path, list[str]]]:
    """Kind, root, mount point and options of the mounted control group hierarchies."""
    for line in _text(proc / "self" / "mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if len(fields) >= 5 and len(rest) >= 3 and rest[0] in ("cgroup", "cgroup2"):
            yield rest[0], fields[3], Path(fields[4].replace("\\040", " ")), rest[2].split(",")


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without colon and unit."""
    found = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1])
    return found


def _text(path: Path) -> str:
    """A small file's content; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
