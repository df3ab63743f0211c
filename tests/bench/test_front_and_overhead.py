"""The measuring tools run, and what they say adds up."""

from __future__ import annotations

import re

import pytest
import tiny_llama

from octavo.bench import front, overhead


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_llama.write_folder(tmp_path_factory.mktemp("tiny"), tokenizer=True))


def test_the_parts_of_a_step_are_measured_for_each_number_of_sequences(folder, capsys):
    assert overhead.main([folder, "--seqs", "1,5", "--steps", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "5"]
    for line in lines:
        assert [float(re.search(rf"{part} (-?\d+)", line)[1]) >= 0 for part in ("plan", "gather", "commit")] == [
            True
        ] * 3


def test_the_front_streams_at_the_rate_asked_for_at_most(folder, capsys):
    command = [folder, "--streams", "3", "--rate", "100", "--seconds", "0.6", "--prompt", "5", "--tokens", "7"]
    assert front.main(command) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == list(front.KINDS)
    for line in lines:
        assert 0 < float(re.search(r"at (\d+) tokens/s", line)[1]) < 120
