"""`octavo doctor`: what this machine offers, measured where it matters, and what to change.

`facts` collects, `advise` judges, `show` prints; judging and printing see only the collected facts.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from octavo import __version__
from octavo.core.table import binary, columns
from octavo.engine import limits, machine

UNITS = {"read_gb_s": "GB/s", "int8_gop_s": "GOP/s", "int16_gop_s": "GOP/s", "bf16_gflop_s": "GFLOP/s"}
UNITS |= {"fp32_gflop_s": "GFLOP/s"}
RATES = {
    "read_gb_s": "memory read",
    "int8_gop_s": "int8 products",
    "int16_gop_s": "int16 products",
    "bf16_gflop_s": "bfloat16 products",
    "fp32_gflop_s": "float32 products",
}
LITTLE_MEMORY = 2**30  # below this the default model runs, but little else


def run(args: argparse.Namespace) -> int:
    """Collect, judge, print."""
    found = facts()
    found["measured"] = measured(found["cores"]["usable"])
    found["advice"] = advise(found)
    print(json.dumps(found, indent=2) if args.json else show(found))
    return 0


def facts(root: Path = machine.ROOT) -> dict[str, Any]:
    """What the system says, by section, without measuring. Unknown facts are None."""
    memory = limits.memory_limit(root / "proc")
    return {
        "versions": {
            "octavo": __version__,
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "compiler": _compiler(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "processor": machine.cpu_name(root),
        "kernels": _kernels(),
        "cores": {
            "physical": machine.cores(root),
            "affinity": machine.usable_cpus(),
            "usable": limits.cores(root / "proc"),
            "numa_nodes": machine.numa_nodes(root),
        },
        "caches": [
            {"level": c.level, "kind": c.kind, "bytes": c.size_bytes, "shared_by": c.shared_by}
            for c in machine.caches(root)
        ],
        "memory": {
            "limit_bytes": memory.total_bytes,
            "available_bytes": memory.available_bytes,
            "limited_by": memory.source,
            "huge_pages": machine.huge_pages(root),
        },
    }


def measured(threads: int) -> dict[str, float] | None:
    """Rates with this many threads: GB/s read, 10^9 operations a second. None without the native library."""
    try:
        from octavo.kernels import native

        return native.measure(threads)
    except (ImportError, OSError, ValueError, MemoryError):
        return None


def advise(found: dict[str, Any]) -> list[str]:
    """What is wrong or could be better, each with what to do."""
    cores, memory, kernels = found["cores"], found["memory"], found["kernels"]
    out = []
    if kernels["isa"] is None:
        out.append(f"The native kernels do not load: {kernels['error']}.")
    elif kernels["isa"] == "portable":
        out.append("The portable kernels are slow: use a processor with AVX2, or better AVX-512 with VNNI.")
    elif kernels["isa"] == "avx2":
        out.append("The AVX2 kernels are used; a processor with AVX-512 and VNNI computes several times as much.")
    if cores["usable"] < len(cores["affinity"]):
        out.append(
            f"A control group grants the time of {cores['usable']} of {len(cores['affinity'])} processors: keep to "
            f"--threads {cores['usable']}; a thread that is paused holds up the step."
        )
    if cores["physical"] and cores["usable"] > cores["physical"]:
        out.append(f"Logical processors share cores: --threads {cores['physical']} may be faster than one for each.")
    if cores["numa_nodes"] > 1:
        out.append(f"There are {cores['numa_nodes']} memory nodes: bind octavo to one with `numactl -N 0 -m 0`.")
    if memory["huge_pages"] == "never":
        out.append("Huge pages are off: `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`.")
    if memory["available_bytes"] < LITTLE_MEMORY:
        out.append(f"Only {binary(memory['available_bytes'])} of memory is free: stop something, or raise the limit.")
    return out


def show(found: dict[str, Any]) -> str:
    """The facts as text."""
    versions, cores, memory, kernels = found["versions"], found["cores"], found["memory"], found["kernels"]
    rows = [
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)),
        ("processor", found["processor"] or "unknown"),
        ("cores", _cores(cores)),
        ("caches", ", ".join(_cache(cache) for cache in found["caches"]) or "unknown"),
        ("features", " ".join(kernels["features"]) or "none known"),
        ("kernels", kernels["isa"] or "missing"),
        (
            "memory",
            f"{binary(memory['available_bytes'])} free of {binary(memory['limit_bytes'])}, as {memory['limited_by']} "
            f"says; huge pages: {memory['huge_pages'] or 'unknown'}",
        ),
    ]
    for name, rate in (found["measured"] or {}).items():
        rows.append((RATES.get(name, name), f"{rate:.1f} {UNITS.get(name, '')}".rstrip()))
    advice = [("advice", line) for line in found["advice"]] or [("advice", "nothing to change")]
    return columns(rows + advice)


def _kernels() -> dict[str, Any]:
    """The instruction set in use and the processor's features, as the native library sees them."""
    try:
        from octavo.kernels import native

        return {"isa": native.isa(), "features": native.features(), "error": None}
    except (ImportError, OSError, ValueError) as error:
        return {"isa": None, "features": [], "error": str(error)}


def _compiler() -> str | None:
    """The C++ compiler of this machine, None where there is none."""
    path = shutil.which("g++") or shutil.which("c++")
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else None


def _cores(cores: dict[str, Any]) -> str:
    """One line on cores."""
    physical = f"{cores['physical']} physical, " if cores["physical"] else ""
    return f"{physical}{len(cores['affinity'])} logical in our affinity mask, time for {cores['usable']}"


def _cache(cache: dict[str, Any]) -> str:
    """One cache in words."""
    shared = f" shared by {cache['shared_by']}" if cache["shared_by"] > 1 else ""
    kind = "" if cache["kind"] == "unified" else f" {cache['kind']}"
    return f"L{cache['level']}{kind} {binary(cache['bytes'])}{shared}"
