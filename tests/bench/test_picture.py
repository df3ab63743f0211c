"""Pictures are pictures, whatever the figures; and comparisons are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from octavo.bench import compare, picture, record, serve, startup
from octavo.bench.datasets import Job
from octavo.bench.figures import figures
from octavo.bench.load import Run
from octavo.bench.stream import Answer
from octavo.bench.workload import Workload
from octavo.core.errors import UserError


def run(scale: float = 1.0, failed: int = 0) -> Run:
    """A made-up run: `scale` slows it down; the last ones failed."""
    random = np.random.default_rng(0)
    answers = []
    for k in range(20):
        gaps = (scale * random.gamma(4, 0.01, 10)).tolist()
        first = 8 + scale * random.gamma(4, 0.05)
        answers.append(Answer(8.0, 8.0, first, first + sum(gaps), gaps, 30, 0, 11, "usage", "length", 200))
        if k >= 20 - failed:
            answers[-1].error = "HTTP 429: wait"
    return Run([Job(0.0, [1], 30, 11) for _ in answers], answers, 8.0, scale * 2.0, 0.1, "/models/some.gguf", scale)


def found(kind: str, load: Workload, results: dict) -> dict:
    """A record."""
    return record.end(record.begin(kind, load.plain()), results)


def check(path: Path) -> None:
    """It is a PNG with something on it."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300
        assert len(set(np.asarray(image.convert("L")).ravel().tolist())) > 20


@pytest.mark.parametrize("sweep", [None, "concurrency:1,4,16", "rate:0.5,1"])
@pytest.mark.parametrize("failed", [0, 3, 20])
def test_loads_are_drawn_and_shown(tmp_path, sweep, failed):
    load = Workload(sweep=sweep, goodput="ttft:300")
    points = [
        {"load": point.name, "axis": point.axis, "model": "m", **figures(run(k + 1.0, failed), point.limits())}
        for k, point in enumerate(load.points())
    ]
    picture.loads(found("serve", load, {"points": points}), tmp_path / "a.png")
    check(tmp_path / "a.png")
    text = serve.show(points[0])
    assert f"{20 - failed} of 20 requests" in text and f"error rate {failed / 20:.1%}" in text
    assert ("3 x HTTP 429: wait" in text) == (failed == 3)
    assert all(name in text for name in ("ttft", "tpot", "itl", "e2el", "goodput", "processor time"))
    assert serve.curve(points).count("\n") == len(points)


def compared(repeats: int, load: Workload) -> dict:
    """Two servers, the second twice as slow as the first, a third as fast."""
    points = []
    for point in load.points():
        rounds = [
            {name: {"model": "m", **figures(run(scale * (1 + turn / 10)), {})} for name, scale in
             (("fast", 1.0), ("slow", 2.0), ("same", 1.0))} for turn in range(repeats)
        ]  # fmt: skip
        ratios = {name: compare.compared(rounds, "fast", name) for name in ("slow", "same")}
        points.append({"load": point.name, "axis": point.axis, "rounds": rounds, "ratios": ratios})
    return found("compare", load, {"points": points})


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("sweep", [None, "concurrency:1,8,32"])
def test_comparisons_are_drawn_and_shown(tmp_path, sweep, repeats):
    told = compared(repeats, Workload(sweep=sweep))
    picture.ratios(told, tmp_path / "b.png")
    check(tmp_path / "b.png")
    point = told["results"]["points"][0]
    slow, same = point["ratios"]["slow"], point["ratios"]["same"]
    assert slow["ttft mean"]["ratio"] == pytest.approx(2) and slow["output_tok_s"]["ratio"] == pytest.approx(0.5)
    assert slow["server_cpu_s_per_1k_tokens"]["ratio"] == pytest.approx(2) and "goodput" not in slow
    wanted = "worse" if repeats > 1 else "no difference shown"
    assert {ratio["verdict"] for ratio in slow.values()} == {wanted}, "of one pair nothing follows"
    assert {ratio["verdict"] for ratio in same.values()} == {"no difference shown"}
    assert "slow/fast" in compare.show(point) and ("one pair" in compare.show(point)) == (repeats == 1)


def test_better_is_more_of_some_and_less_of_others():
    rounds = compared(3, Workload())["results"]["points"][0]["rounds"]
    found = compare.compared(rounds, "slow", "fast")
    assert found["output_tok_s"]["ratio"] > 1 > found["ttft p99"]["ratio"]
    assert {ratio["verdict"] for ratio in found.values()} == {"better"}


@pytest.mark.parametrize("planned", [None, 2**29])
def test_starts_are_drawn_and_shown(tmp_path, planned):
    one = {"ready_seconds": 1.0, "first_byte_seconds": 1.5, "cpu_seconds": 2.0, "resident_bytes": 2**30}
    one |= {"planned_bytes": planned, "over_bytes": planned and 2**29}
    told = record.end(record.begin("startup", {"server": "octavo serve m", "cold": False}), {"runs": [one, one]})
    picture.starts(told, tmp_path / "c.png")
    check(tmp_path / "c.png")
    assert ("over_bytes" in startup.show(told)) == (planned is not None) and "1.50" in startup.show(told)


def test_a_missing_library_is_told_with_its_name(monkeypatch):
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"octavo\[bench\].*--no-picture"):
        picture.require()
