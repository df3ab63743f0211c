"""The measurement of stalls on a tiny model: what it prints, not how long anything took."""

from __future__ import annotations

import tiny_llama

from octavo.bench import stall


def test_it_prints_one_row_for_each_target(tmp_path, capsys):
    model = tiny_llama.write_gguf(tmp_path / "tiny.gguf", dtype="Q4_1")
    assert stall.main([str(model), "--clients", "3", "--prompt", "300", "--targets", "0", "50", "--rounds", "2"]) == 0
    head, titles, none, some = capsys.readouterr().out.splitlines()
    assert head.endswith("3 clients")
    assert len(titles.split(" | ")) == len(none.split(" | ")) == len(some.split(" | ")) == 7
    assert (none.split(" | ")[0], some.split(" | ")[0]) == ("none", "50.0")
    for row in (none, some):
        quiet, middle, high, most, long, short = (float(value) for value in row.split(" | ")[1:])
        assert quiet >= 0
        assert 0 <= middle <= high <= most
        assert long >= 0
        assert short >= 0
