"""Loads and prompts: what is drawn, what is repeatable, what is refused."""

from __future__ import annotations

import json
import math

import pytest

from octavo.bench.datasets import WORDS, jobs
from octavo.bench.workload import Workload
from octavo.core.errors import InvalidValue


def test_random_prompts_have_the_lengths_asked_for():
    load = Workload(num_prompts=400, input_len=50, output_len=20, range_ratio=0.1, vocab_size=1000)
    drawn = jobs(load, False, (0,))
    assert {len(job.prompt) for job in drawn} == set(range(45, 56))
    assert {job.output_len for job in drawn} == set(range(18, 23))
    assert all(100 <= token < 1000 for job in drawn for token in job.prompt)
    assert all(job.input_len == len(job.prompt) and job.arrival == 0 for job in drawn)
    assert {len(job.prompt) for job in jobs(Workload(input_len=7, num_prompts=9), False, (0,))} == {7}
    words = jobs(load, True, (0,))
    assert all(len(job.prompt.split()) == job.input_len for job in words)


def test_the_same_seed_gives_the_same_jobs_and_another_shares_no_prompt():
    load = Workload(num_prompts=20, request_rate=3)
    assert jobs(load, False, (0, 1)) == jobs(load, False, (0, 1))
    once, again = jobs(load, False, (0, 1)), jobs(load, False, (0, 2))
    assert not {tuple(job.prompt[:32]) for job in once} & {tuple(job.prompt[:32]) for job in again}
    assert once[-1].arrival == again[-1].arrival == pytest.approx(20 / 3)


def test_prefix_repetition_shares_beginnings_equally():
    load = Workload(dataset_name="prefix_repetition", num_prefixes=4, prefix_len=32, input_len=8, num_prompts=40)
    drawn = jobs(load, False, (0,))
    beginnings = [tuple(job.prompt[:32]) for job in drawn]
    assert len(set(beginnings)) == 4 and all(beginnings.count(one) == 10 for one in set(beginnings))
    assert len({tuple(job.prompt[32:]) for job in drawn}) == 40
    assert all(job.input_len == 40 for job in drawn)
    assert beginnings != sorted(beginnings, key=beginnings.index), "they come in no order"


def test_text_gives_every_line_before_any_again(tmp_path):
    file = tmp_path / "lines"
    file.write_text('plain words\n\n{"prompt": "a \\"quoted\\" one", "output_tokens": 3}\n{"prompt": "no length"}\n')
    load = Workload(dataset_name="text", dataset_path=str(file), num_prompts=6, output_len=9)
    found = [(job.prompt, job.output_len, job.input_len) for job in jobs(load, True, (0,))]
    wanted = {("plain words", 9, None), ('a "quoted" one', 3, None), ("no length", 9, None)}
    assert set(found[:3]) == wanted == set(found[3:])


def test_a_trace_is_followed(tmp_path):
    rows = [
        {"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [7, 8]},
        {"timestamp": 3000, "input_length": 600, "output_length": 6, "hash_ids": [7, 9]},
        {"timestamp": 2500, "input_length": 20, "output_length": 7},
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    first, second, third = jobs(Workload(trace=str(file)), False, (0,))
    assert [job.arrival for job in (first, second, third)] == [0, 1.5, 2]
    assert [(len(job.prompt), job.output_len) for job in (first, second, third)] == [(700, 5), (20, 7), (600, 6)]
    assert first.prompt[:512] == third.prompt[:512] and first.prompt[512:600] != third.prompt[512:]
    stretched = jobs(Workload(trace=str(file), request_rate=0.5), False, (0,))
    assert [job.arrival for job in stretched] == [0, 4.5, 6]
    assert len(jobs(Workload(trace=str(file), num_prompts=2), True, (0,))) == 2


def test_sweeps_are_points():
    points = Workload(sweep="concurrency:1,8", num_prompts=5).points()
    assert [(point.max_concurrency, point.sweep, point.axis[1]) for point in points] == [(1, None, 1.0), (8, None, 8.0)]
    points = Workload(sweep="rate:0.5,2", burstiness=0.25).points()
    assert [point.name for point in points] == [f"{r} requests/s, burstiness 0.25" for r in ("0.5", "2")]
    assert Workload(num_prompts=7).axis[1] == 7 and Workload().name == "concurrency 100"
    assert Workload(goodput="ttft:2000,tpot:1e2").limits() == {"ttft": 2000, "tpot": 100}
    assert json.loads(json.dumps(Workload().plain()))["request_rate"] == "inf"


def test_warmups_are_as_many_as_run_at_once():
    assert [Workload(max_concurrency=n).warmups for n in (None, 4, 64)] == [32, 4, 32]
    assert Workload(num_warmups=0).warmups == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input_len", 0), ("output_len", 0), ("num_prompts", 0), ("num_prefixes", 0), ("repeats", 0), ("seed", -1)),
        *(("range_ratio", 1.0), ("range_ratio", -0.1), ("range_ratio", math.nan), ("vocab_size", 9)),
        *(("request_rate", 0.0), ("request_rate", math.nan), ("burstiness", 0.0), ("max_concurrency", 0)),
        *(("num_warmups", -1), ("goodput", "ttft"), ("goodput", "itl:3"), ("goodput", "ttft:-3")),
        *(("sweep", "rate:fast"), ("sweep", "users:3"), ("sweep", "concurrency:0"), ("sweep", "rate:")),
        *(("dataset_path", "somewhere"),),
    ],
)
def test_what_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(InvalidValue) as raised:
        Workload(**{field: value})
    assert raised.value.field == field


def test_files_that_are_none_are_refused_by_name(tmp_path):
    empty, wrong = tmp_path / "empty", tmp_path / "wrong"
    empty.write_text("\n")
    wrong.write_text('{"timestamp": 0, "input_length": 3, "output_length": 2}\n{"timestamp": 0}\n')
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(InvalidValue, match=r"^dataset_path: "):
            jobs(Workload(dataset_name="text", dataset_path=str(path)), True, (0,))
    with pytest.raises(InvalidValue, match=r"^trace: .*in line 2"):
        jobs(Workload(trace=str(wrong)), True, (0,))
    with pytest.raises(InvalidValue, match=r"^dataset_path: None"):
        Workload(dataset_name="text")


def test_words_are_unique_and_single():
    assert len(set(WORDS)) == len(WORDS) > 150 and all(word.isalpha() for word in WORDS)
