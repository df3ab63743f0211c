"""`octavo bench serve`: one server under one load, or under each of a sweep.

The figures are printed with their definitions; --out keeps result.json, each request in requests.jsonl, and a picture.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from octavo.bench import picture, record
from octavo.bench.client import Target
from octavo.bench.figures import DEFINITIONS, SHOWN, TIMES, figures, raw
from octavo.bench.keep import Keep, bar
from octavo.bench.load import Asking, measure
from octavo.bench.workload import Workload
from octavo.core.errors import InvalidValue
from octavo.core.table import columns


def run(args: argparse.Namespace) -> int:
    """Load the server, print, keep."""
    load, asking = workload(args), asked(args)
    target = Target(args.target["url"], args.target["api_key"], args.target["timeout"])
    keep = Keep(args)
    begun = record.begin("serve", {"url": target.url, "endpoint": asking.endpoint, **load.plain(), **asking.more})
    points = []
    for number, point in enumerate(load.points()):
        with bar(point.name, point.num_prompts) as told:
            done = measure(target, asking, point, (number,), warm=number == 0, told=told.update)
        points.append({"load": point.name, "axis": point.axis, "model": done.model, **figures(done, point.limits())})
        keep.requests(raw(done), {"point": number})
        if not args.json:
            print(show(points[-1]), end="\n\n", flush=True)
    found = record.end(begun, {"definitions": DEFINITIONS, "points": points})
    keep.result(found, picture.loads)  # first: who reads the rest may leave
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join([*([curve(points)] if len(points) > 1 else []), definitions(), record.title(found)]))
    return 0


def workload(args: argparse.Namespace) -> Workload:
    """The load, from the flags. Raises InvalidValue."""
    return Workload(**args.load)


def asked(args: argparse.Namespace) -> Asking:
    """How requests are put, from the flags. Raises InvalidValue."""
    more: Any = {"temperature": args.sampling["temperature"]}
    if args.sampling["ignore_eos"]:
        more["ignore_eos"] = True
    given = args.target["extra_body"]
    try:
        extra = json.loads(given) if given else {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise InvalidValue("extra_body", given, "a JSON object")
    return Asking(args.target["endpoint"], args.target["model"], more | extra)


def show(point: dict[str, Any]) -> str:
    """The figures of one load as text."""
    n = point["requests"]
    counted = " and ".join(point["tokens_counted_by"]) or "nothing"
    lines = [
        f"{point['load']}: {n - point['failed']} of {n} requests of {point['model']} good in {point['seconds']:.2f} s, "
        f"error rate {point['error_rate']:.1%}",
        *(f"  {times} x {error}" for error, times in point["errors"].items()),
        f"  {point['request_rate']:.3f} requests/s, {point['output_tok_s']:.1f} output tok/s, "
        f"{point['total_tok_s']:.1f} total tok/s; peak concurrency {point['peak_concurrency']}",
    ]
    if point["goodput"] is not None:
        lines.append(f"  goodput {point['goodput']:.3f} requests/s")
    server = point["server_cpu_s_per_1k_tokens"]
    said = "" if server is None else f", the server {point['server_cpu_seconds']:.2f} s: {server:.3g} s for 1000 tokens"
    lines.append(
        f"  {point['prompt_tokens']} prompt tokens ({point['cached_tokens']} cached), {point['output_tokens']} output "
        f"tokens, counted by {counted}; this client used {point['client_cpu_seconds']:.2f} s of processor time{said}"
    )
    rows: list[tuple[str, ...]] = [("ms", *SHOWN, "n")]
    for name in TIMES:
        figure = point["ms"][name]
        rows.append((name, *(_number(figure[key]) for key in SHOWN), str(figure["n"])))
    return "\n".join([*lines, columns(rows, right=range(1, 6), indent=2)])


def curve(points: list[dict[str, Any]]) -> str:
    """A sweep as one table."""
    head = (points[0]["axis"][0].split(",")[0], "requests/s", "output tok/s", "TTFT mean, ms", "P99")
    rows: list[tuple[str, ...]] = [(*head, "TPOT mean, ms", "ITL P99, ms", "E2EL P99, ms", "errors")]
    for point in points:
        ms = point["ms"]
        shown = (ms["ttft"]["mean"], ms["ttft"]["p99"], ms["tpot"]["mean"], ms["itl"]["p99"], ms["e2el"]["p99"])
        rates = (f"{point['axis'][1]:g}", f"{point['request_rate']:.3f}", f"{point['output_tok_s']:.1f}")
        rows.append((*rates, *map(_number, shown), f"{point['error_rate']:.1%}"))
    return columns(rows, right=range(9))


def definitions() -> str:
    """What the words mean."""
    return columns(list(DEFINITIONS.items()))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
