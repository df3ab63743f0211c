"""Pictures of records, as PNG: what the figures look like over the load, and ratios with their intervals.

Drawn from the same plain data that result.json holds. matplotlib is the extra `bench`, loaded when something is drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.bench import record
from octavo.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind
Points = Sequence[dict[str, Any]]


def require() -> None:
    """Raise UserError where pictures cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise UserError("a picture needs matplotlib: pip install 'octavo[bench]', or give --no-picture")


def loads(found: dict[str, Any], servers: dict[str, Points], path: Path) -> None:
    """Latency and throughput of a `serve` record over its loads, or of its one load; `servers`: points by name."""
    figure = _figure(found, f"{', '.join(servers)} under load", 3)
    first, between, rate = figure.subplots(1, 3)
    (points,) = servers.values()
    if len(points) == 1:
        _percentiles(first, points[0], ("ttft", "e2el"), "time to first and last token")
        _percentiles(between, points[0], ("tpot", "itl"), "time between tokens")
        _rates(rate, points[0])
    else:
        _latency(first, points, "ttft", "time to first token")
        _latency(between, points, "itl", "between chunks (ITL)")
        _throughput(rate, points)
    _save(figure, path)


def ratios(found: dict[str, Any], path: Path) -> None:
    """The ratios of a `compare` record with their intervals, a panel for each load."""
    points = found["results"]["points"]
    figure = _figure(found, "the same load by turns", len(points), tall=True)
    for axes, point in zip(figure.subplots(1, len(points), squeeze=False)[0], points, strict=True):
        _forest(axes, point)
    _save(figure, path)


def starts(found: dict[str, Any], path: Path) -> None:
    """Each start of a `startup` record as a bar from the process's start to the first byte, and the memory held."""
    runs = found["results"]["runs"]
    figure = _figure(found, f"start of {found['settings']['server']}", 2)
    time, memory = figure.subplots(1, 2)
    places = range(1, len(runs) + 1)
    ready = [run["ready_seconds"] for run in runs]
    time.barh(places, ready, color=COLOURS[0], label="process start to ready")
    after = [run["first_byte_seconds"] - run["ready_seconds"] for run in runs]
    time.barh(places, after, left=ready, color=COLOURS[1], label="ready to first streamed byte")
    time.set_xlabel("seconds")
    held = [run["resident_bytes"] / 2**20 for run in runs]
    memory.barh(places, held, color=COLOURS[2], label="resident memory of all processes")
    planned = [run["planned_bytes"] for run in runs if run["planned_bytes"]]
    if planned:
        memory.axvline(planned[0] / 2**20, color="black", linestyle="--", label="weights + keys and values, as planned")
    memory.set_xlabel("MiB")
    for axes in (time, memory):
        axes.set_yticks(list(places))
        axes.set_ylabel("start")
        axes.invert_yaxis()
        _finish(axes, low=False)
    _save(figure, path)


def _figure(found: dict[str, Any], title: str, panels: int, tall: bool = False) -> Figure:
    """An empty figure with the record's title."""
    from matplotlib.figure import Figure  # late, and without pyplot, which keeps state

    figure = Figure(figsize=(max(4.6 * panels, 9.0), 5.2 if tall else 4.4), dpi=130, layout="constrained")
    figure.suptitle(f"{title}\n{record.title(found)}", fontsize=10)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")


def _latency(axes: Axes, points: Points, metric: str, title: str) -> None:
    """Median, P90 and P99 over the load; points without a good answer have none."""
    for statistic, style, colour in zip(("median", "p90", "p99"), ("o-", "s--", "^:"), COLOURS, strict=False):
        told = [(point["axis"][1], point["ms"][metric][statistic]) for point in points]
        told = [(x, y) for x, y in told if y is not None]
        axes.plot(*zip(*told, strict=True) if told else ((), ()), style, color=colour, label=statistic.upper())
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("milliseconds")
    _over_load(axes, points)


def _throughput(axes: Axes, points: Points) -> None:
    """Tokens a second over the load, and errors where there are any."""
    x = [point["axis"][1] for point in points]
    axes.plot(x, [point["output_tok_s"] for point in points], "o-", color=COLOURS[0], label="output")
    axes.plot(x, [point["total_tok_s"] for point in points], "s--", color=COLOURS[1], label="prompt and output")
    for point in points:
        if point["failed"]:
            place = (point["axis"][1], point["output_tok_s"])
            axes.annotate(f"{point['error_rate']:.0%} errors", place, color="crimson", fontsize=8)
    axes.set_title("throughput", fontsize=10)
    axes.set_ylabel("tokens/s")
    _over_load(axes, points)


def _over_load(axes: Axes, points: Points) -> None:
    """The axis of a sweep: each load a mark, evenly apart where they double."""
    x = [point["axis"][1] for point in points]
    if max(x) >= 8 * min(x):
        axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{each:g}" for each in x])
    axes.minorticks_off()
    axes.set_xlabel(points[0]["axis"][0])
    _finish(axes)


def _percentiles(axes: Axes, point: dict[str, Any], metrics: Sequence[str], title: str) -> None:
    """Statistics of one load, a group of bars for each metric."""
    shown = ("mean", "median", "p90", "p99")
    for place, (metric, colour) in enumerate(zip(metrics, COLOURS, strict=False)):
        values = [point["ms"][metric][statistic] or 0.0 for statistic in shown]
        bars = axes.bar([i + place * 0.4 for i in range(len(shown))], values, 0.38, color=colour, label=metric.upper())
        axes.bar_label(bars, fmt="%.3g", fontsize=8)
    axes.set_xticks([i + 0.2 for i in range(len(shown))], [name.upper() if name[0] == "p" else name for name in shown])
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("milliseconds")
    axes.set_xlabel(_wrapped(point))
    _finish(axes)


def _rates(axes: Axes, point: dict[str, Any]) -> None:
    """Throughput of one load."""
    bars = axes.bar(
        ["output", "prompt and output"], [point["output_tok_s"], point["total_tok_s"]], 0.5, color=COLOURS[:2]
    )
    axes.bar_label(bars, fmt="%.4g", fontsize=8)
    axes.set_title("throughput", fontsize=10)
    axes.set_ylabel("tokens/s")
    axes.set_xlabel(f"{point['request_rate']:.3g} requests/s, error rate {point['error_rate']:.1%}")
    axes.grid(axis="y", alpha=0.3)


def _forest(axes: Axes, point: dict[str, Any]) -> None:
    """Ratios as marks with their intervals, on an axis where half and double are equally far from 1."""
    names: list[str] = []
    first = next(iter(point["rounds"][0]))
    for number, (server, found) in enumerate(point["ratios"].items()):
        for metric, ratio in found.items():
            if metric not in names:
                names.append(metric)
            place = names.index(metric) + 0.18 * number
            ends = (ratio["low"] or ratio["ratio"], ratio["high"] or ratio["ratio"])
            sure = "no" not in ratio["verdict"]
            axes.plot(ends, (place, place), color=COLOURS[number], linewidth=2, alpha=1.0 if sure else 0.35)
            label = f"{server} / {first}" if metric == next(iter(found)) else None
            axes.plot([ratio["ratio"]], [place], "o", color=COLOURS[number], alpha=1.0 if sure else 0.35, label=label)
            axes.annotate(f"{ratio['ratio']:.2f}", (ratio["ratio"], place), (0, 6), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title(_wrapped(point), fontsize=10)
    failed = statistics.mean(run["error_rate"] for each in point["rounds"] for run in each.values())
    axes.set_xlabel(f"ratio, 95 % interval of {len(point['rounds'])} pairs; errors {failed:.1%}")
    _finish(axes, low=False)


def _wrapped(point: dict[str, Any]) -> str:
    return str(point["load"]).replace(", ", "\n", 1)


def _finish(axes: Axes, low: bool = True) -> None:
    """Grid and legend; an axis of latencies or rates begins at 0."""
    if low:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
