"""`octavo profile`: runs steps of a prefill, of decoding and of both together, and shows where their time goes.

What is counted and what is timed is said by program/cost.py and bench/profile.py; this says it in a table or as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from octavo.bench import record
from octavo.bench.profile import profile, program_of, rows, told
from octavo.bench.steps import StepShape
from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.core.errors import InvalidValue
from octavo.core.table import columns, count
from octavo.engine.limits import cores, memory_limit
from octavo.kernels import native

HEADER = ("", "ms", "share", "MB", "int8 Gop", "bf16 Gop", "fp32 Gop", "GB/s", "Gop/s", "of limit")
NOTE = """\
MB: weights, table rows, keys and values, read and written once. Gop: 10^9 products and sums, by the form of their
inputs. of limit: the time that the measured rates allow for the slower of both, over the time taken; above 100 % where
what is read again and again stays in a cache. rest: the list of work, and waking the threads."""


def run(args: argparse.Namespace) -> int:
    """Load, measure the machine, run the steps, print."""
    asked = flags.section(args, "step")
    isa, steps = resolve.isa(asked.pop("isa")), asked.pop("steps")
    shapes = wanted(StepShape(**asked))
    if steps < 1:
        raise InvalidValue("steps", steps, "an integer of 1 or more")
    threads = args.threads or cores()
    settings = {"model": args.model, "threads": threads, "isa": isa, "kv_dtype": args.kv_cache_dtype, "steps": steps}
    begun = record.begin("profile", settings)
    progress = Progress(sys.stderr)
    program = program_of(
        resolve.path(args),
        dtype=args.dtype,
        quantization=args.quantize,
        kv_dtype=args.kv_cache_dtype,
        max_len=max(first + size for shape in shapes for first, size in shape.runs),
        progress=lambda share: progress.share("loading", share),
    )
    rates = native.measure(threads, isa)
    found: list[dict[str, Any]] = []
    for shape in shapes:
        free = memory_limit().available_bytes
        batch, times = profile(program, shape, threads=threads, isa=isa, steps=steps, memory_bytes=free)
        *parts, total = [row.record() for row in rows(program, batch, times, rates)]
        found.append({"name": shape.name, **plain(shape), "ops": parts, "total": total})
        progress.share("steps", len(found) / len(shapes))
    progress.close()
    whole = record.end(begun, {"rates": rates, "steps": found})
    print(json.dumps(whole, indent=2) if args.json else show(whole))
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


def plain(shape: StepShape) -> dict[str, int]:
    """A shape as plain data."""
    return {"prompt": shape.prompt, "batch": shape.batch, "context": shape.context if shape.batch else 0}


def show(whole: dict[str, Any]) -> str:
    """The profile as text."""
    settings, results = whole["settings"], whole["results"]
    lines = [
        f"{settings['model']}, {count(settings['threads'], 'thread')}, {settings['isa']}, pages of "
        f"{settings['kv_dtype']}; the machine {told(results['rates'])}",
    ]
    for step in results["steps"]:
        tokens, seconds = step["prompt"] + step["batch"], step["total"]["seconds"]
        lines += ["", f"{step['name']}: {seconds * 1e3:.2f} ms, {tokens / seconds:.0f} tokens/s"]
        cells = [HEADER, *(_cells(row, seconds) for row in [*step["ops"], step["total"]])]
        lines.append(columns(cells, right=range(1, len(HEADER)), indent=2))
    return "\n".join([*lines, "", NOTE, record.title(whole)])


def _cells(row: dict[str, Any], whole: float) -> list[str]:
    """One row of the table; what is nothing stays empty."""
    shown = [row["kind"], f"{row['seconds'] * 1e3:.3f}", f"{row['seconds'] / whole:.1%}"]
    counts = [(row["bytes_read"] + row["bytes_written"]) / 1e6]
    counts += [row[f"{form}_operations"] / 1e9 for form in ("int8", "bf16", "fp32")]
    shown += [f"{value:.3f}" if value else "" for value in counts]
    shown += [f"{row[name]:.1f}" if row[name] else "" for name in ("gb_s", "gop_s")]
    return [*shown, f"{row['limit_share']:.0%}" if row["limit_share"] else ""]
