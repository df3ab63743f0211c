"""`octavo plan`: from headers alone, the memory that serving takes, by category, and what fits into it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from octavo.checkpoint.source import open_source
from octavo.cli import resolve
from octavo.core.layout import PAGE
from octavo.core.table import binary, columns, count
from octavo.engine.launch import memory_plan
from octavo.engine.limits import MemoryLimit, memory_limit
from octavo.engine.memory import MemoryPlan
from octavo.models.load import footprint
from octavo.models.load import plan as entries_of
from octavo.models.registry import read_spec
from octavo.models.widened import told

MEANING = {
    "weights": "packed weights",
    "kv_cache": "pages of keys and values",
    "workspace": "working memory of a step",
    "slots": "state of the sequences",
    "interpreter": "Python and libraries",
}


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    model = resolve.path(args)
    launch = resolve.launch(args, model)
    plan = memory_plan(launch)
    with open_source(model) as source:
        asked = read_spec(source, launch.exec.runner), launch.exec.dtype, launch.exec.quantization
        parts, widened = footprint(source, *asked), told(entries_of(source, *asked))
    found = {"model": args.model, "path": str(model), "weights": parts, "widened": widened}
    found |= described(plan, memory_limit(), launch.scheduler.max_seqs)
    print(json.dumps(found, indent=2) if args.json else show(found))
    return 0


def described(plan: MemoryPlan, limit: MemoryLimit, max_seqs: int) -> dict[str, Any]:
    """The plan against this machine, as plain data; all sizes in bytes, all lengths in tokens."""
    return {
        "bytes": plan.by_category(),
        "total_bytes": plan.total,
        "budget_bytes": plan.budget,
        "available_bytes": limit.available_bytes,
        "limited_by": limit.source,
        "page_bytes": plan.page_bytes,
        "pages": plan.pages,
        "tokens": plan.pages // len(plan.windows) * PAGE,
        "max_model_len": plan.max_len,
        "max_num_seqs": max_seqs,
        "cache_groups": list(plan.windows),
        "sequence_pages": plan.sequence_pages,
        "full_sequences": plan.pages // plan.sequence_pages,
    }


def show(found: dict[str, Any]) -> str:
    """The plan as text."""
    rows = []
    for name, size in found["bytes"].items():
        rows.append((name, binary(size), str(size), MEANING.get(name, "")))
        if name == "weights":
            rows += [
                (f"  {part}", binary(part_size), str(part_size), "") for part, part_size in found["weights"].items()
            ]
    rows.append(("total", binary(found["total_bytes"]), str(found["total_bytes"]), _against(found)))
    lines = [
        f"{found['model']}: {found['path']}",
        columns(rows, right=(1, 2), indent=2),
        f"What fits: {found['pages']} pages of {PAGE} tokens, {found['tokens']} tokens at once: "
        f"{count(found['full_sequences'], 'sequence')} of {found['max_model_len']} tokens (--max-model-len), or "
        f"up to {found['max_num_seqs']} (--max-num-seqs) shorter ones.",
    ]
    if found["widened"]:
        lines.append(f"Note: {found['widened']}.")
    if any(found["cache_groups"]):
        lines.append(_windows(found["cache_groups"], found["sequence_pages"]))
    return "\n".join(lines)


def _windows(windows: list[int], pages: int) -> str:
    """What sliding windows save."""
    among = f"{sum(map(bool, windows))} of {count(len(windows), 'group')} of layers"
    return f"{among} see at most {max(windows)} tokens back and keep no more: a sequence holds at most {pages} pages."


def _against(found: dict[str, Any]) -> str:
    """The budget and where it comes from."""
    return (
        f"of {binary(found['budget_bytes'])} allowed; {found['limited_by']} leaves {binary(found['available_bytes'])}"
    )
