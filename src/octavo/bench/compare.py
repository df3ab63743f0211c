"""`octavo bench compare`: several servers under the same load by turns, and the ratios of their figures.

Round by round every server gets the same requests, in reversed order each time (A B, B A, ...), so that what drifts
on the machine meets both alike; prompts differ between rounds, so that no cache knows them (two names of one server
would share its cache, and show it). A ratio is of the pair within a round. Invariant: nothing is called better or
worse whose interval holds 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from typing import Any, cast

from octavo.bench import picture, record
from octavo.bench.client import Target
from octavo.bench.confidence import paired
from octavo.bench.figures import DEFINITIONS, figures, raw
from octavo.bench.keep import Keep, bar
from octavo.bench.load import Asking, measure
from octavo.bench.serve import asked, definitions, workload
from octavo.bench.workload import Workload
from octavo.core.errors import InvalidValue
from octavo.core.table import columns

COMPARED = {  # figure: unit
    "output_tok_s": "tok/s",
    "request_rate": "1/s",
    "goodput": "1/s",
    "ttft mean": "ms",
    "ttft median": "ms",
    "ttft p99": "ms",
    "tpot mean": "ms",
    "itl p99": "ms",
    "e2el mean": "ms",
    "e2el p99": "ms",
    "server_cpu_s_per_1k_tokens": "s",
}


def run(args: argparse.Namespace) -> int:
    """Load the servers by turns, print, keep."""
    load, asking, servers = workload(args), asked(args), named(args)
    keep = Keep(args)
    urls = {name: target.url for name, target in servers.items()}
    begun = record.begin("compare", {"urls": urls, "endpoint": asking.endpoint, **load.plain(), **asking.more})
    points = []
    for number, point in enumerate(load.points()):
        rounds = turns(servers, asking, point, number, keep)
        ratios = {name: compared(rounds, next(iter(servers)), name) for name in list(servers)[1:]}
        points.append({"load": point.name, "axis": point.axis, "rounds": rounds, "ratios": ratios})
        if not args.json:
            print(show(points[-1]), end="\n\n", flush=True)
    found = record.end(begun, {"definitions": DEFINITIONS, "points": points})
    keep.result(found, picture.ratios)
    print(json.dumps(found, indent=2) if args.json else f"{definitions()}\n\n{record.title(found)}")
    return 0


def named(args: argparse.Namespace) -> dict[str, Target]:
    """The servers by name, the first being what the others are compared with. Raises InvalidValue."""
    given = args.target["url"] or []
    found = {}
    for number, text in enumerate(given):
        name, equals, url = text.partition("=")
        if not equals or "/" in name:
            name, url = chr(ord("A") + number), text
        found[name] = Target(url, args.target["api_key"], args.target["timeout"])
    if len(found) < 2 or len(found) < len(given):
        raise InvalidValue("url", given, "at least two, each with another name")
    return found


def turns(
    servers: dict[str, Target], asking: Asking, load: Workload, number: int, keep: Keep
) -> list[dict[str, dict[str, Any]]]:
    """The figures of each round, by server in the order of their turns."""
    rounds = []
    for turn in range(load.repeats):
        order = list(servers) if turn % 2 == 0 else list(servers)[::-1]
        results = {}
        for name in order:
            with bar(f"{load.name}, round {turn + 1} of {load.repeats}, {name}", load.num_prompts) as told:
                warm = turn == 0 and number == 0
                done = measure(servers[name], asking, load, (number, turn), warm=warm, told=told.update)
            results[name] = {"model": done.model, **figures(done, load.limits())}
            keep.requests(raw(done), {"point": number, "round": turn, "server": name})
        rounds.append(results)
    return rounds


def figure(found: dict[str, Any], name: str) -> float | None:
    """One of COMPARED, of the figures of a run."""
    metric, _, statistic = name.partition(" ")
    return cast("float | None", found["ms"][metric][statistic] if statistic else found[name])


def compared(rounds: list[dict[str, dict[str, Any]]], first: str, second: str) -> dict[str, dict[str, Any]]:
    """second / first for every figure that both have, with its interval and what follows from it."""
    out: dict[str, dict[str, Any]] = {}
    for name in COMPARED:
        ratio = paired([figure(each[first], name) for each in rounds], [figure(each[second], name) for each in rounds])
        if ratio is not None:
            verdict = "better" if (ratio.ratio > 1) == (name in picture.MORE_IS_BETTER) else "worse"
            out[name] = asdict(ratio) | {"verdict": verdict if ratio.certain else "no difference shown"}
    return out


def show(point: dict[str, Any]) -> str:
    """One load as text: each server's median figures and error rate, and the ratios."""
    names = list(point["rounds"][0])  # in the order given, as nobody's turn is reversed yet
    head = ["", *names]
    for name in point["ratios"]:
        head += [f"{name}/{names[0]}", "95 %", ""]
    rows = [head]
    for metric, unit in COMPARED.items():
        values = [[figure(each[name], metric) for each in point["rounds"]] for name in names]
        row = [f"{metric}, {unit}", *(_median(each) for each in values)]
        for ratios in point["ratios"].values():
            row += _ratio(ratios.get(metric))
        if any(value is not None for each in values for value in each):
            rows.append(row)
    errors = [sum(each[name]["failed"] for each in point["rounds"]) for name in names]
    requests = sum(each[names[0]]["requests"] for each in point["rounds"])
    rows.append(["error rate", *(f"{failed / requests:.1%}" for failed in errors), *[""] * 3 * len(point["ratios"])])
    title = f"{point['load']}: medians of {len(point['rounds'])} rounds by turns"
    return f"{title}\n{columns(rows, right=range(1, len(names) + 1), indent=2)}"


def _median(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{statistics.median(there):.4g}" if there else "-"


def _ratio(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["-", "", ""]
    span = "one pair" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
    return [f"{found['ratio']:.3f}", span, found["verdict"]]
