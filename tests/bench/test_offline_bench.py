"""`octavo bench offline` in this process: what is counted, what others' figures are read from, and how steps grow."""

from __future__ import annotations

import json
import sys

import pytest
import tiny_llama

from octavo.bench import forms, offline
from octavo.bench.offline import Work
from octavo.core.config import CacheConfig
from octavo.core.errors import InvalidValue, UserError
from octavo.engine.launch import LaunchConfig, build_engine


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """A tiny model of 512 positions."""
    folder = tiny_llama.write_folder(tmp_path_factory.mktemp("model"))
    return LaunchConfig(model=str(folder), cache=CacheConfig(memory_bytes=256 << 20))


def test_one_sequence_counts_prefill_and_decode_apart(launch):
    work = Work(prompt=40, tokens=6)
    engine, info = build_engine(work.sized(launch))
    assert info.pages == 2 and info.max_len == 41
    steps = offline.finish(engine, [[1] * 40], 1)
    assert len(steps) == 1, "a prompt is one step"
    assert len(offline.finish(engine, [[1]], 7)) == 7
    found = offline.alone(engine, info.vocab, work, 0)
    assert set(found) == {"prefill_tok_s", "decode_tok_s"} and min(found.values()) > 0
    engine.check()
    engine.close()


def test_a_batch_is_all_there_at_the_start(launch):
    work = Work(prompt=33, tokens=5, requests=7)
    engine, info = build_engine(work.sized(launch))
    assert info.pages == 7 * 2 and info.max_len == 38
    found = offline.batch(engine, info.vocab, work, 0)
    assert found["steps"] == 5, "all prompts fit into the first step"
    assert found["output_tok_s"] == pytest.approx(7 * 5 / found["seconds"])
    assert found["total_tok_s"] == pytest.approx(7 * 38 / found["seconds"])
    engine.check()
    engine.close()


def test_turns_give_medians_and_ratios(launch, tmp_path):
    work = Work(prompt=8, tokens=2, requests=3)
    other = tmp_path / "other.py"
    other.write_text("import sys\nprint('loading')\nprint('{\"output_tokens_per_second\": %s}' % sys.argv[1])\n")
    engine, info = build_engine(work.sized(launch))
    found = offline.turns(engine, info.vocab, work, 3, f"{sys.executable} {other} {{requests}}{{prompt}}.{{tokens}}")
    engine.close()
    assert found["work"] == {"prompt": 8, "tokens": 2, "requests": 3}
    assert [len(rows) for rows in found["runs"].values()] == [3, 3]
    rates = sorted(run["output_tok_s"] for run in found["runs"]["octavo"])
    assert found["medians"]["octavo"]["output_tok_s"] == rates[1]
    assert found["medians"]["against"] == {"output_tok_s": 38.2}
    assert found["ratios"] == {"output_tok_s": rates[1] / 38.2}


def test_llama_bench_is_told_and_read(tmp_path):
    script = tmp_path / "bench.py"
    script.write_text(
        "import json, sys\n"
        "told = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "assert told['-r'] == '1' and told['-o'] == 'json', told\n"
        "rows = [{'n_prompt': int(told['-p']), 'avg_ts': 100.5}, {'n_prompt': 0, 'avg_ts': float(told['-n'])}]\n"
        "print(json.dumps(rows))\n"
    )
    found = offline.theirs(f"{sys.executable} {script}", Work(prompt=12, tokens=34))
    assert found == {"prefill_tok_s": 100.5, "decode_tok_s": 34.0}


@pytest.mark.parametrize(
    ("command", "requests", "said"),
    [
        ("no-such-command-here", 0, "does not start"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no model\")'", 0, "ended with 1: no model"),
        (f"{sys.executable} -c 'print(1)'", 0, "printed no figures: '1"),
        (f"{sys.executable} -c 'print(1)'", 2, "printed no figures: '1"),
        (f"{sys.executable} -c 'print(chr(123) + chr(125))'", 2, "printed no figures"),
        (f"{sys.executable} -c 'pass'", 2, "printed no figures: ''"),
    ],
)
def test_what_others_do_wrong_is_one_line(command, requests, said):
    with pytest.raises(UserError, match=f"^--against: .*{said}"):
        offline.theirs(command, Work(4, 4, requests))


def test_a_batch_s_last_object_counts():
    first, second = (json.dumps({"output_tokens_per_second": rate}) for rate in (1, 2))
    assert offline.batch_figures("\n".join(["loading", first, "warm", second, "bye"])) == {"output_tok_s": 2.0}
    both = json.dumps({"output_tokens_per_second": 3, "total_tokens_per_second": 9})
    assert offline.batch_figures(both) == {"output_tok_s": 3.0, "total_tok_s": 9.0}


def test_growth_goes_as_far_as_the_model(launch):
    found = list(offline.growth(launch, [(1, 32), (5, 32), (40, 32)]))
    assert [(row["sequences"], row["context"]) for row in found] == [(1, 32), (5, 32), (40, 32)]
    assert all(row["tok_s"] == pytest.approx(row["sequences"] / row["seconds"]) for row in found)
    room = 2 * offline.GROWN_STEPS + 1
    longer = list(offline.growth(launch, [(1, 128), (1, 512), (1, 1024)]))
    assert [row["context"] for row in longer] == [128, 512 - room]


def test_decoding_steps_hold_all_sequences(launch):
    engine, info = build_engine(offline.sized(launch, 6, 200))
    assert len(offline.decoding(engine, info, 6, 100)) == offline.GROWN_STEPS
    assert not engine.has_work
    engine.check()
    engine.close()


@pytest.mark.parametrize("field", ["prompt", "tokens"])
def test_work_has_sizes(field):
    with pytest.raises(InvalidValue, match=f"^{field}: 0"):
        Work(**{"prompt": 1, "tokens": 1, field: 0})


def test_a_form_is_followed_by_turns_with_and_without_its_forced_tokens(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "model", tokenizer=True)
    launch = LaunchConfig(model=str(folder), cache=CacheConfig(memory_bytes=256 << 20))
    form = tmp_path / "form.json"
    form.write_text('{"type": "array", "items": {"const": "the other one"}, "minItems": 50}')
    found = forms.turns(launch, Work(prompt=5, tokens=40, requests=3), 2, str(form))
    steps = {name: rows["steps"] for name, rows in found["medians"].items()}
    assert steps["free"] == steps["drawn"] == 40 > steps["served"]
    assert found["form"]["gain"] > 0
    assert [len(rows) for rows in found["runs"].values()] == [2, 2, 2]
    form.write_text('{"enum": [1]}')
    with pytest.raises(UserError, match="must not end"):
        forms.turns(launch, Work(prompt=5, tokens=40, requests=3), 1, str(form))
    with pytest.raises(UserError, match="form"):
        forms.turns(launch, Work(prompt=5, tokens=40), 1, str(form))
    with pytest.raises(UserError, match="nowhere"):
        forms.turns(launch, Work(prompt=5, tokens=40, requests=3), 1, str(tmp_path / "nowhere"))
