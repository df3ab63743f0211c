"""The record of a measurement: what any figure must be read with, and where it is kept.

`begin` notes what holds before the first measurement, `end` adds the results and how quiet the machine was meanwhile;
both give plain data, the same keys for every benchmark. Invariant: an API key is never recorded. Knows no benchmark.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import octavo
from octavo.engine import limits, machine
from octavo.kernels import native

SECRET = "--api-key"


def begin(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A record without results: `kind` of benchmark, its settings, machine, commit, command, date, versions."""
    settings = {name: value for name, value in settings.items() if name != "api_key"}
    return {
        "benchmark": kind,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(sys.argv),
        "commit": commit(),
        "versions": {
            "octavo": octavo.__version__,
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "system": f"{platform.system()} {platform.release()}",
        },
        "machine": described(),
        "settings": settings,
        "quiet": {"load_average": os.getloadavg()[0], "_began": (time.monotonic(), *_ticks())},
    }


def end(record: dict[str, Any], results: Any) -> dict[str, Any]:
    """The whole record. `quiet` says of the time since `begin`: its length, and which share of the machine was busy
    (our own load included) and which was stolen by other guests of its host; None where the system does not tell.
    """
    began, all_before, idle_before, stolen_before = record["quiet"]["_began"]
    all_after, idle_after, stolen_after = _ticks()
    ticks = all_after - all_before
    quiet = {
        "load_average_before": round(record["quiet"]["load_average"], 2),
        "seconds": round(time.monotonic() - began, 3),
        "busy_share": round(1 - (idle_after - idle_before) / ticks, 3) if ticks else None,
        "stolen_share": round((stolen_after - stolen_before) / ticks, 3) if ticks else None,
    }
    return record | {"quiet": quiet, "results": results}


def write(record: dict[str, Any], folder: Path) -> Path:
    """Write result.json into `folder`, which is made where needed. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def described(root: Path = machine.ROOT) -> dict[str, Any]:
    """This machine: processor, cores, instruction sets the kernels know of and the one in use, memory."""
    try:
        features, isa = native.features(), native.isa()
    except (ImportError, OSError, ValueError):
        features, isa = [], None
    return {
        "processor": machine.cpu_name(root) or platform.machine(),
        "physical_cores": machine.cores(root),
        "usable_cores": limits.cores(root / "proc"),
        "instruction_sets": features,
        "kernels": isa,
        "memory_bytes": limits.memory_limit(root / "proc").total_bytes,
        "huge_pages": machine.huge_pages(root),
    }


def title(record: dict[str, Any]) -> str:
    """The record's machine, commit and date in one line."""
    about, cores = record["machine"], record["machine"]["usable_cores"]
    shown = (record["commit"] or "no commit").partition("+")
    return (
        f"{about['processor']}, {cores} core{'s' * (cores != 1)}; octavo {record['versions']['octavo']} "
        f"at {shown[0][:8]}{shown[1]}{shown[2]}, {record['date'][:10]}"
    )


def commit() -> str | None:
    """The commit this package runs from, with "+changes" where files differ; None outside of a checkout."""
    folder = Path(octavo.__file__).parent
    try:
        told = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["ls-files", "__init__.py"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    if not told[1]:  # installed into some other project's folder
        return None
    return told[0].strip() + ("+changes" if told[2].strip() else "")


def command_line(words: list[str]) -> str:
    """What was typed, without keys."""
    shown = ["octavo", *words[1:]]
    for i, word in enumerate(shown):
        if word.startswith(f"{SECRET}="):
            shown[i] = f"{SECRET}=..."
        elif i and shown[i - 1] == SECRET:
            shown[i] = "..."
    return shlex.join(shown)


def _ticks(proc: Path = limits.PROC) -> tuple[int, int, int]:
    """Clock ticks of all cores since the machine started: all, idle, stolen. Source: proc(5)."""
    try:
        words = (proc / "stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0, 0, 0
    ticks = [int(word) for word in words]  # user nice system idle iowait irq softirq steal
    return sum(ticks), ticks[3] + ticks[4], ticks[7]
