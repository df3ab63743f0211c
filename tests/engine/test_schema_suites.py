"""Schemas of the JSON-Schema-Test-Suite and of SchemaStore: what compiles gives only valid answers.

`make test` takes each eighth schema, `make test-slow` all; with `-s` it prints the counts of docs/structured.md.
"""

from __future__ import annotations

import pytest
from schema_suites import SUITES, Counts, answers, model, schemas

TEMPERATURES = (0.0, 1.0, 50.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return model(tmp_path_factory.mktemp("model"))


def report(suite: str, how: str, counts: Counts) -> None:
    print(f"\n{suite} {how}: {counts.compiled} compiled, {sum(counts.refused.values())} refused; ", end="")
    print(f"{counts.valid} valid, {counts.truncated} truncated, {len(counts.wrong)} wrong; ", end="")
    print(f"{counts.preemptions} preemptions; refused: {counts.refused.most_common(12)}")


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("suite", SUITES)
def test_a_sample_gives_only_valid_answers(made, suite, temperature):
    counts = answers(made, schemas(suite)[::8], temperature)
    assert not counts.wrong
    assert counts.valid > counts.compiled / 5


def test_a_sample_under_preemption(made):
    cases = [case for suite in SUITES for case in schemas(suite)[5::8]]
    counts = answers(made, cases, 1.0, pages=24)
    assert counts.preemptions
    assert not counts.wrong


@pytest.mark.slow
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("suite", SUITES)
def test_all_give_only_valid_answers(made, suite, temperature):
    counts = answers(made, schemas(suite), temperature)
    report(suite, f"at temperature {temperature:g}", counts)
    assert not counts.wrong


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_all_under_preemption(made, suite):
    counts = answers(made, schemas(suite), 1.0, pages=24)
    report(suite, "under preemption", counts)
    assert counts.preemptions
    assert not counts.wrong
