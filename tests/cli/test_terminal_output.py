"""Progress and tables: what a terminal and a file see."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.cli import progress
from octavo.core import table


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_redraws_one_line(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = Terminal()
    shown = progress.Progress(out)
    for done in range(0, 101, 10):
        shown.bytes("fetching", done * 2**20, 100 * 2**20)
        now[0] += 1
    shown.share("loading", 0.5)
    shown.close()
    lines = out.getvalue().split("\n")
    assert len(lines) == 3 and lines[2] == ""
    assert lines[0].count("\r") == 11 and "100% 100 MiB of 100 MiB, 10 MiB/s" in lines[0].split("\r")[-1]
    assert lines[1].startswith("\rloading [###############...............]  50%")


def test_progress_in_a_file_is_few_whole_lines(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    shown = progress.Progress(out)
    for step in range(1001):
        shown.share("loading", step / 1000)
        now[0] += 0.01
    shown.share("loading", 1.0)
    assert out.getvalue() == "loading   0%\nloading  50%\nloading 100%\n"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (2**40, "1.0 TiB")],
)
def test_binary(count, said):
    assert table.binary(count) == said


@given(st.integers(0, 2**45))
def test_binary_is_true_to_a_twentieth(count):
    number, unit = table.binary(count).split()
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert abs(float(number) * scale - count) <= 0.05 * scale + 1e-6


def test_columns_align():
    assert table.columns([("a", "10"), ("long", "2")], right=(1,), indent=1) == " a     10\n long   2"
