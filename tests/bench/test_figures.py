"""The definitions on timelines made by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.bench.datasets import Job
from octavo.bench.figures import figures, peak, raw, summary, times, within
from octavo.bench.load import Run
from octavo.bench.stream import Answer

BEGAN = 8.0  # on the clock


def answer(arrived: float, sent: float, chunks: list[float], tokens: int) -> Answer:
    """A good answer with chunks at these times since the start."""
    arrived, sent, chunks = arrived + BEGAN, sent + BEGAN, [time + BEGAN for time in chunks]
    gaps = [after - before for before, after in pairwise(chunks)]
    return Answer(arrived=arrived, sent=sent, first=chunks[0], last=chunks[-1], gaps=gaps, prompt_tokens=10,
                  output_tokens=tokens, counted="usage", status=200)  # fmt: skip


TIMELINE = [
    answer(0.0, 0.0, [0.5, 0.75, 1.0, 1.5], tokens=5),  # 4 chunks, 5 tokens: ttft 500, tpot 250, e2el 1500
    answer(0.0, 1.0, [1.25], tokens=1),  # queued for 1000; ttft 250, no tpot
    answer(2.0, 2.0, [2.5, 3.0], tokens=2),  # ttft 500, tpot 500, e2el 1000
    Answer(arrived=0.0, sent=0.0, first=0.25, last=0.25, error="connection lost"),
]
RUN = Run([Job(a.arrived - BEGAN, [1] * 10, 10, 5) for a in TIMELINE], TIMELINE, BEGAN, 4.0, 0.125, "m")


def test_times_of_a_timeline():
    assert times(TIMELINE) == {
        "ttft": [500, 250, 500],
        "tpot": [250, 500],
        "itl": [250, 250, 500, 500],
        "e2el": [1500, 250, 1000],
        "queue": [0, 1000, 0],
        "e2el_with_queue": [1500, 1250, 1000],
    }


def test_rates_count_good_answers_over_the_whole_time():
    found = figures(RUN, {"ttft": 500, "tpot": 300})
    assert (found["requests"], found["failed"], found["error_rate"]) == (4, 1, 0.25)
    assert found["errors"] == {"connection lost": 1}
    assert found["request_rate"] == 3 / 4
    assert found["output_tok_s"] == 8 / 4
    assert found["total_tok_s"] == (30 + 8) / 4
    assert found["goodput"] == 2 / 4  # the third is too slow between tokens; one token has no tpot to be too slow
    assert found["peak_concurrency"] == 2
    assert found["client_cpu_seconds"] == 0.125 and found["server_cpu_s_per_1k_tokens"] is None
    assert found["ms"]["ttft"] == {"n": 3, "mean": pytest.approx(1250 / 3), "median": 500, "p90": 500, "p99": 500}


def test_limits_are_kept_when_met_exactly():
    first = TIMELINE[0]
    assert within(first, {"ttft": 500, "tpot": 250, "e2el": 1500})
    for tight in ({"ttft": 499}, {"tpot": 249}, {"e2el": 1499}):
        assert not within(first, {"ttft": 500, "tpot": 250, "e2el": 1500} | tight)
    assert figures(RUN, {})["goodput"] is None


def test_nothing_good_is_no_figure_but_an_error_rate():
    found = figures(Run(RUN.jobs[3:], TIMELINE[3:], 0.0, 4.0, 0.0, "m"), {"ttft": 1})
    assert found["error_rate"] == 1 and found["output_tok_s"] == 0 and found["goodput"] == 0
    assert found["ms"]["ttft"] == {"n": 0, "mean": None, "median": None, "p90": None, "p99": None}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_percentiles_are_linear_between_ranks(values):
    """Against the definition written out: rank p (n - 1), between its neighbours."""
    found, ranked = summary(values), sorted(values)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        place = share * (len(ranked) - 1)
        low = int(place)
        high = min(low + 1, len(ranked) - 1)
        wanted = ranked[low] + (ranked[high] - ranked[low]) * (place - low)
        assert found[name] == pytest.approx(wanted, abs=1e-6)
    assert found["mean"] == pytest.approx(np.mean(values)) and found["n"] == len(values)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=25))
def test_peak_is_the_most_at_any_moment(spans):
    """Against counting at every half step."""
    spans = [(begin, begin + length) for begin, length in spans]
    moments = [i + 0.5 for i in range(30)]
    assert peak(spans) == max((sum(b <= m < e for b, e in spans) for m in moments), default=0)


def test_raw_requests_give_the_figures_again():
    rows = raw(RUN)
    assert [row["error"] for row in rows] == [None, None, None, "connection lost"]
    good = [row for row in rows if row["error"] is None]
    assert [1000 * (row["first"] - row["sent"]) for row in good] == times(TIMELINE)["ttft"]
    assert [gap * 1000 for row in good for gap in row["gaps"]] == times(TIMELINE)["itl"]
    assert raw(Run(RUN.jobs[:1], [Answer(error="no connection")], 0.0, 1.0, 0.0, "m"))[0]["first"] is None
