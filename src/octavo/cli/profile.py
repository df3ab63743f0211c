"""`octavo profile`: runs steps of a prefill, of decoding and of both together, and shows where their time goes.

What is counted and what is timed is said by program/cost.py and bench/profile.py; this says it in a table or as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from octavo.bench.profile import profile, program_of, rows
from octavo.bench.steps import StepShape
from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.cli.table import columns, count
from octavo.core.errors import InvalidValue
from octavo.engine.limits import cores, memory_limit
from octavo.engine.machine import cpu_name
from octavo.kernels import native

HEADER = ("", "ms", "share", "MB", "int8 Gop", "bf16 Gop", "fp32 Gop", "GB/s", "Gop/s", "of limit")
NOTE = """\
MB: weights, table rows, keys and values, read and written once. Gop: 10^9 products and sums, by the form of their
inputs. of limit: the time that the measured rates allow for the slower of both, over the time taken."""


def run(args: argparse.Namespace) -> int:
    """Load, measure the machine, run the steps, print."""
    told = flags.section(args, "step")
    isa = resolve.isa(told.pop("isa"))
    steps = told.pop("steps")
    shapes = wanted(StepShape(**told))
    if steps < 1:
        raise InvalidValue("steps", steps, "an integer of 1 or more")
    threads = args.threads or cores()
    progress = Progress(sys.stderr)
    program = program_of(
        resolve.path(args),
        dtype=args.dtype,
        kv_dtype=args.kv_cache_dtype,
        max_len=max(first + size for shape in shapes for first, size in shape.runs),
        progress=lambda share: progress.share("loading", share),
    )
    rates = native.measure(threads, isa)
    found: dict[str, Any] = {
        "model": args.model,
        "processor": cpu_name(),
        "threads": threads,
        "isa": isa,
        "kv_dtype": args.kv_cache_dtype,
        "rates": rates,
        "steps": [],
    }
    for shape in shapes:
        free = memory_limit().available_bytes
        batch, times = profile(program, shape, threads=threads, isa=isa, steps=steps, memory_bytes=free)
        *parts, total = [row.record(times.total) for row in rows(program, batch, times, rates)]
        found["steps"].append({"name": shape.name, **told_of(shape), "ops": parts, "total": total})
        progress.share("steps", len(found["steps"]) / len(shapes))
    progress.close()
    print(json.dumps(found, indent=2) if args.json else show(found))
    return 0


def wanted(shape: StepShape) -> list[StepShape]:
    """The prompt alone, the decoding alone, and both in one step. Raises InvalidValue."""
    for name in ("prompt", "batch", "context"):
        if getattr(shape, name) < 0:
            raise InvalidValue(name, getattr(shape, name), "an integer of 0 or more")
    alone = [StepShape(prompt=shape.prompt), StepShape(batch=shape.batch, context=shape.context)]
    shapes = [one for one in alone if one.runs]
    if not shapes:
        raise InvalidValue("batch", 0, "above 0, or --prompt: a step computes something")
    return [*shapes, shape] if len(shapes) == 2 else shapes


def told_of(shape: StepShape) -> dict[str, int]:
    """A shape as plain data."""
    return {"prompt": shape.prompt, "batch": shape.batch, "context": shape.context if shape.batch else 0}


def show(found: dict[str, Any]) -> str:
    """The profile as text."""
    rates = found["rates"]
    measured = f"reads {rates['read_gb_s']:.1f} GB/s, int8 {rates['int8_gop_s']:.0f} Gop/s, "
    measured += f"bfloat16 {rates['bf16_gflop_s']:.0f}, float32 {rates['fp32_gflop_s']:.0f}"
    lines = [
        f"{found['model']} on {found['processor']}, {count(found['threads'], 'thread')}, {found['isa']}, pages of "
        f"{found['kv_dtype']}",
        f"measured: {measured}",
    ]
    for step in found["steps"]:
        tokens, seconds = step["prompt"] + step["batch"], step["total"]["seconds"]
        lines += ["", f"{step['name']}: {seconds * 1e3:.2f} ms, {tokens / seconds:.0f} tokens/s"]
        cells = [HEADER, *(_cells(row) for row in [*step["ops"], step["total"]])]
        lines.append(columns(cells, right=range(1, len(HEADER)), indent=2))
    return "\n".join([*lines, "", NOTE])


def _cells(row: dict[str, Any]) -> list[str]:
    """One row of the table; what is nothing stays empty."""
    shown = [row["kind"], f"{row['seconds'] * 1e3:.3f}", f"{row['share']:.1%}"]
    counts = [(row["bytes_read"] + row["bytes_written"]) / 1e6]
    counts += [row[f"{form}_operations"] / 1e9 for form in ("int8", "bf16", "fp32")]
    shown += [f"{value:.3f}" if value else "" for value in counts]
    shown += [f"{row[name]:.1f}" if row[name] else "" for name in ("gb_s", "gop_s")]
    return [*shown, f"{row['limit_share']:.0%}" if row["limit_share"] else ""]
