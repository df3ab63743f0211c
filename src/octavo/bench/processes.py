"""What processes on this machine take, with their children: processor time and memory. Reads /proc only.

Every function takes the folder, so that a test can lay out processes of its own. What has ended meanwhile counts
nothing; what may not be read counts as unknown. Sources: proc(5), Documentation/filesystems/proc.rst of the kernel.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from octavo.engine.limits import PROC

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
LISTEN = "0A"  # a socket's state in /proc/net/tcp


def family(pid: int, proc: Path = PROC) -> list[int]:
    """A process and all that descend from it, those that have ended left out."""
    parents = {}
    for path in proc.glob("[0-9]*/stat"):
        words = _stat(path)
        if words:
            parents[int(path.parent.name)] = int(words[1])
    found = [pid] if pid in parents else []
    for one in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_seconds(pid: int, proc: Path = PROC) -> float:
    """Processor time of a family so far, with that of its children that have ended."""
    ticks = [int(tick) for one in family(pid, proc) for tick in _stat(proc / str(one) / "stat")[11:15]]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, proc: Path = PROC) -> int:
    """Memory of a family; pages that several processes share count once (proportional set size)."""
    total = 0
    for one in family(pid, proc):
        try:
            found = re.search(r"^Pss:\s+(\d+) kB", (proc / str(one) / "smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) * 1024 if found else 0
    return total


def listener(host: str, port: int, proc: Path = PROC) -> int | None:
    """The process of this machine that listens at a port, the eldest where several do; None where nobody is seen."""
    if host not in LOOPBACK:
        return None
    sockets = set()
    for name in ("tcp", "tcp6"):
        for line in _text(proc / "net" / name).splitlines()[1:]:
            words = line.split()
            if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{words[9]}]")
    owners = [int(path.parts[-3]) for path in proc.glob("[0-9]*/fd/*") if sockets and _link(path) in sockets]
    return min(owners, default=None)


def _stat(path: Path) -> list[str]:
    """The fields behind the name, which may hold spaces: state, parent, ...; user time is at 11. Empty: it ended."""
    return _text(path).rpartition(")")[2].split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
