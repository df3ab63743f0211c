"""Pictures of records, as PNG: what the figures look like over the load, and ratios with their intervals.

Drawn from the same plain data that result.json holds. matplotlib is the extra `bench`, loaded when something is drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.bench import record
from octavo.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind
OVER_LOAD = (  # figure, statistic, title, unit
    ("output_tok_s", "", "output", "tokens/s"),
    ("ttft", "mean", "mean time to first token", "milliseconds"),
    ("itl", "p99", "P99 between chunks (ITL)", "milliseconds"),
)
MORE_IS_BETTER = ("output_tok_s", "request_rate", "goodput")
PEAKS = {"int8_gop_s": "-", "int16_gop_s": "-.", "bf16_gflop_s": "--", "fp32_gflop_s": ":"}
MARKS = ("o", "s", "^", "v", "D", "P", "X", "*")
RATES = {"output_tok_s": "output", "total_tok_s": "prompt and output"}
Points = Sequence[dict[str, Any]]


def require() -> None:
    """Raise UserError where pictures cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise UserError("a picture needs matplotlib: pip install 'octavo[bench]', or give --no-picture")


def loads(found: dict[str, Any], path: Path) -> None:
    """Latency and throughput of a `serve` record over its loads, or the figures of its one load."""
    points = found["results"]["points"]
    figure = _figure(found, f"{Path(points[0]['model']).name} under load: {_asked(found)}", (13.8, 4.4))
    first, between, rate = figure.subplots(1, 3)
    if len(points) == 1:
        _bars(first, points[0], ("ttft", "e2el"), "time to first and last token")
        _bars(between, points[0], ("tpot", "itl"), "time between tokens")
        _rates(rate, points[0])
    else:
        for axes, metric, title in ((first, "ttft", "time to first token"), (between, "itl", "between chunks (ITL)")):
            axes.set_title(title, fontsize=10)
            for name, style, colour in zip(("median", "p90", "p99"), ("o-", "s--", "^:"), COLOURS, strict=False):
                _line(axes, points, [point["ms"][metric][name] for point in points], _upper(name), style, colour)
            _over_load(axes, points, "milliseconds")
        _throughput(rate, points)
    _save(figure, path)


def ratios(found: dict[str, Any], path: Path) -> None:
    """The ratios of a `compare` record with their intervals; of a sweep first each server's figures over the load."""
    points = found["results"]["points"]
    rows = 2 if len(points) > 1 else 1
    size = (max(4.6 * len(points), 13.8 if rows == 2 else 9.2), 5.2 if rows == 1 else 9.4)
    models = dict.fromkeys(Path(run["model"]).name for run in points[0]["rounds"][0].values())
    figure = _figure(found, f"{' and '.join(models)}, the same load by turns: {_asked(found)}", size)
    parts = figure.subfigures(rows, 1, height_ratios=[4, 5][-rows:], squeeze=False)[:, 0]
    if rows == 2:
        panels = parts[0].subplots(1, 3)
        for axes, (metric, statistic, title, unit) in zip(panels, OVER_LOAD, strict=True):
            axes.set_title(f"{title}, median of {len(points[0]['rounds'])} rounds", fontsize=10)
            for name, colour in zip(points[0]["rounds"][0], cycle(COLOURS), strict=False):
                values = [_middle(point, name, metric, statistic) for point in points]
                _line(axes, points, values, name, "o-", colour)
            _over_load(axes, points, unit)
    panels = parts[-1].subplots(1, len(points), squeeze=False, sharex=True, sharey=True)[0]
    for axes, point in zip(panels, points, strict=True):
        _forest(axes, point)
    panels[0].invert_yaxis()
    _save(figure, path)


def starts(found: dict[str, Any], path: Path) -> None:
    """Each start of a `startup` record as a bar from the process's start to the first byte, and the memory held."""
    runs = found["results"]["runs"]
    figure = _figure(found, f"start of {found['settings']['server']}", (11.0, 4.0))
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
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    _save(figure, path)


def roofs(found: dict[str, Any], path: Path) -> None:
    """Each case of a `kernels` record under the machine's roofs: operations a second over operations a byte."""
    rates = found["results"]["rates"]
    figure = _figure(found, "kernels under the machine's limits", (7.5 * len(rates), 5.5))
    for axes, (isa, rate) in zip(figure.subplots(1, len(rates), squeeze=False)[0], rates.items(), strict=True):
        cases = [case for case in found["results"]["cases"] if case["isa"] == isa and case["gb_s"] and case["gop_s"]]
        for number, kind in enumerate(dict.fromkeys(case["kind"] for case in cases)):
            of = [case for case in cases if case["kind"] == kind]
            x, y = [case["gop_s"] / case["gb_s"] for case in of], [case["gop_s"] for case in of]
            axes.plot(x, y, MARKS[number % len(MARKS)], color=COLOURS[number % len(COLOURS)], label=kind, markersize=4)
        steep = [1e-1, max(rate[peak] for peak in PEAKS) / rate["read_gb_s"]]
        axes.plot(steep, [x * rate["read_gb_s"] for x in steep], "k-", label=f"memory {rate['read_gb_s']:.0f} GB/s")
        for peak, style in PEAKS.items():
            axes.axhline(rate[peak], color="black", linestyle=style, linewidth=0.8, label=f"{peak} {rate[peak]:.0f}")
        axes.set_title(isa, fontsize=10)
        axes.set_xlabel("operations for each byte of weights, keys and values")
        axes.set_ylabel("10^9 operations/s")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        _finish(axes, low=False)
    _save(figure, path)


def turns(found: dict[str, Any], path: Path) -> None:
    """Every run of an `offline` record by engine, and how its steps grow, where that was asked."""
    results, grown = found["results"], found["results"].get("growth", [])
    figure = _figure(found, f"{found['settings']['model']} in process", (12.0 if grown else 6.0, 4.0))
    rates, *more = figure.subplots(1, 3 if grown else 1, squeeze=False)[0]
    names = [name for name in next(iter(results["medians"].values())) if name.endswith("tok_s")]
    for number, (who, medians) in enumerate(results["medians"].items()):
        there = [(place + 0.4 * number, name) for place, name in enumerate(names) if name in medians]
        axis = [place for place, _ in there]
        rates.bar(axis, [medians[name] for _, name in there], 0.36, color=COLOURS[number], label=f"{who}, median")
        for place, name in there:
            rates.plot([place] * len(results["runs"][who]), [run[name] for run in results["runs"][who]], "k.")
    rates.set_xticks(range(len(names)), [name.removesuffix("_tok_s") for name in names])
    rates.set_ylabel("tokens/s")
    _finish(rates)
    for axes, over, fixed in zip(more, ("sequences", "context"), ("context", "sequences"), strict=False):
        rows = [row for row in grown if row[fixed] == grown[0][fixed]]
        label = f"decoding step, {fixed} {grown[0][fixed]}"
        axes.plot([row[over] for row in rows], [row["seconds"] * 1e3 for row in rows], "o-", label=label)
        axes.set_xlabel(over)
        axes.set_ylabel("milliseconds")
        axes.set_xscale("log", base=2)
        _finish(axes)
    _save(figure, path)


def quantized(found: dict[str, Any], path: Path) -> None:
    """What a `quantize` record says: the share that each matrix loses, by layer, bytes and perplexity."""
    results = found["results"]
    figure = _figure(found, f"{Path(found['settings']['model']).name} in {found['settings']['scheme']}", (12.0, 4.2))
    lost, size, perplexity = figure.subplots(1, 3, width_ratios=(4, 1, 1))
    kinds: dict[str, list[float]] = {}
    for matrix in results["matrices"]:
        kinds.setdefault(matrix["name"].rpartition(".")[2], []).append(matrix["error"])
    for (kind, errors), mark, colour in zip(kinds.items(), cycle(MARKS), cycle(COLOURS), strict=False):
        lost.plot(range(len(errors)), [100 * error for error in errors], f"{mark}-", color=colour, label=kind)
    lost.set_xlabel("layer")
    lost.set_ylabel("% of the output lost")
    _finish(lost)
    for axes, title, unit, scale in ((size, "bytes", "MB", 1e-6), (perplexity, "perplexity", "", 1.0)):
        values = [value * scale for value in results[title].values() if value is not None]
        if values:
            bars = axes.bar(list(results[title]), values, 0.6, color=COLOURS[:2])
            axes.bar_label(bars, [_short(value) for value in values], fontsize=8)
        axes.set_title(title if values else f"{title}: not measured", fontsize=10)
        axes.set_ylabel(unit)
        axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _figure(found: dict[str, Any], title: str, size: tuple[float, float]) -> Figure:
    """An empty figure with the record's title; size in inches."""
    from matplotlib.figure import Figure  # late, and without pyplot, which keeps state

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    figure.suptitle(f"{title}\n{record.title(found)}", fontsize=10)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")


def _asked(found: dict[str, Any]) -> str:
    """The settings of a load that its title names."""
    told = found["settings"]
    if told["trace"]:
        return f"trace {Path(told['trace']).name}"
    if told["dataset_name"] == "text":
        return f"{Path(told['dataset_path']).name}, {told['output_len']} tokens out"
    shared = f"{told['prefix_len']} shared + " if told["dataset_name"] == "prefix_repetition" else ""
    return f"{shared}{told['input_len']} random tokens in, {told['output_len']} out"


def _upper(name: str) -> str:
    return name.upper() if name[0] == "p" else name


def _middle(point: dict[str, Any], server: str, metric: str, statistic: str) -> float | None:
    """The median over the rounds of a server's figure."""
    found = [run[server]["ms"][metric][statistic] if statistic else run[server][metric] for run in point["rounds"]]
    there = [value for value in found if value is not None]
    return statistics.median(there) if there else None


def _line(axes: Axes, points: Points, values: Sequence[float | None], label: str, style: str, colour: str) -> None:
    """Values over the loads; there is none where there was no good answer."""
    x, y = [point["axis"][1] for point in points], [float("nan") if value is None else value for value in values]
    axes.plot(x, y, style, color=colour, label=label)


def _throughput(axes: Axes, points: Points) -> None:
    """Tokens a second over the load, and errors where there are any."""
    for metric, label, style, colour in zip(RATES, RATES.values(), ("o-", "s--"), COLOURS, strict=False):
        _line(axes, points, [point[metric] for point in points], label, style, colour)
    for point in points:
        if point["failed"]:
            place = (point["axis"][1], point["output_tok_s"])
            axes.annotate(f"{point['error_rate']:.0%} errors", place, color="crimson", fontsize=8)
    axes.set_title("throughput", fontsize=10)
    _over_load(axes, points, "tokens/s")


def _over_load(axes: Axes, points: Points, unit: str) -> None:
    """The axes of a sweep: each load a mark, evenly apart where they double."""
    axes.set_ylabel(unit)
    x = [point["axis"][1] for point in points]
    if max(x) >= 8 * min(x):
        axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{each:g}" for each in x])
    axes.minorticks_off()
    axes.set_xlabel(points[0]["axis"][0])
    _finish(axes)


def _bars(axes: Axes, point: dict[str, Any], metrics: Sequence[str], title: str) -> None:
    """Statistics of one load, a colour for each metric."""
    shown = ("mean", "median", "p90", "p99")
    for place, (metric, colour) in enumerate(zip(metrics, COLOURS, strict=False)):
        values = [point["ms"][metric][statistic] or 0.0 for statistic in shown]
        bars = axes.bar([i + place * 0.4 for i in range(len(shown))], values, 0.38, color=colour, label=metric.upper())
        axes.bar_label(bars, [_short(value) for value in values], fontsize=8)
    axes.set_xticks([i + 0.2 for i in range(len(shown))], [_upper(name) for name in shown])
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("milliseconds")
    axes.set_xlabel(point["load"])
    _finish(axes)


def _rates(axes: Axes, point: dict[str, Any]) -> None:
    """Throughput of one load."""
    values = [point[metric] for metric in RATES]
    bars = axes.bar(list(RATES.values()), values, 0.5, color=COLOURS[:2])
    axes.bar_label(bars, [_short(value) for value in values], fontsize=8)
    axes.set_title("throughput", fontsize=10)
    axes.set_ylabel("tokens/s")
    axes.set_xlabel(f"{point['request_rate']:.3g} requests/s, error rate {point['error_rate']:.1%}")
    axes.grid(axis="y", alpha=0.3)


def _forest(axes: Axes, point: dict[str, Any]) -> None:
    """Ratios as marks with their intervals, pale where they show nothing; half and double are equally far from 1."""
    names: list[str] = []
    first = next(iter(point["rounds"][0]))
    for number, (server, found) in enumerate(point["ratios"].items()):
        colour = COLOURS[(number + 1) % len(COLOURS)]  # as the server's line above
        for metric, ratio in found.items():
            if metric not in names:
                names.append(metric)
            place = names.index(metric) + 0.2 * number
            ends = (ratio["low"] or ratio["ratio"], ratio["high"] or ratio["ratio"])
            pale = 0.35 if ratio["verdict"].startswith("no ") else 1.0
            axes.plot(ends, (place, place), color=colour, linewidth=2, alpha=pale)
            label = f"{server} / {first}" if metric == next(iter(found)) else None
            axes.plot([ratio["ratio"]], [place], "o", color=colour, alpha=pale, label=label)
            text = f"{ratio['ratio']:.2f}"
            axes.annotate(text, (ratio["ratio"], place), (0, 5), textcoords="offset points", ha="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(names)), [f"{name} {'↑' if name in MORE_IS_BETTER else '↓'}" for name in names])
    axes.set_title(point["load"], fontsize=10)
    failed = statistics.mean(run["error_rate"] for each in point["rounds"] for run in each.values())
    key = "↑ more is better, ↓ less; pale: no difference shown"
    axes.set_xlabel(f"ratio, 95 % interval of {len(point['rounds'])} pairs; errors {failed:.1%}\n{key}")
    _finish(axes, low=False)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _finish(axes: Axes, low: bool = True) -> None:
    """Grid and legend; an axis of latencies or rates begins at 0."""
    if low:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
