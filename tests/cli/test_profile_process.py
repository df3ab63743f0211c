"""`octavo profile`, `octavo bench offline` and `octavo bench kernels` as processes, on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tiny_llama
import tiny_pooling

from octavo.kernels import native

KINDS = ["embed", "norm", "qkv", "attend", "proj(o)", "ffn_in", "proj(down)", "head", "draw", "rest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, in bfloat16 once loaded."""
    return tiny_llama.write_folder(tmp_path_factory.mktemp("model"))


def octavo(*args: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit code."""
    command = [sys.executable, "-m", "octavo", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | env, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_profile_is_a_record_of_three_steps(folder):
    args = ("--prompt", 20, "--batch", 3, "--context", 40, "--steps", 3, "--threads", 1, "--isa", "portable")
    found = json.loads(octavo("profile", folder, *args, "--json").stdout)
    assert found["benchmark"] == "profile" and found["settings"]["isa"] == "portable"
    assert set(found["results"]["rates"]) == set(native.RATES)
    steps = found["results"]["steps"]
    assert [step["name"] for step in steps] == ["prefill 20", "decode 3 at 40", "prefill 20 + decode 3 at 40"]
    assert [(step["prompt"], step["batch"], step["context"]) for step in steps] == [(20, 0, 0), (0, 3, 40), (20, 3, 40)]
    for step in steps:
        assert [row["kind"] for row in step["ops"]] == KINDS
        for name in ("seconds", "bytes_read", "bytes_written", "int8_operations", "bf16_operations", "fp32_operations"):
            assert sum(row[name] for row in step["ops"]) == pytest.approx(step["total"][name]), name
    layer = {row["kind"]: row for row in steps[0]["ops"]}
    assert layer["ffn_in"]["bf16_operations"] == 2 * 2 * 20 * 2 * 128 * 64
    assert layer["ffn_in"]["bytes_read"] == 2 * 2 * 128 * 64 * 2
    assert layer["attend"]["bytes_read"] == 2 * 20 * 2 * 32 * 2 * 2


def test_profile_prints_a_table_for_each_step(folder):
    said = octavo("profile", folder, "--prompt", 0, "--batch", 2, "--context", 8, "--steps", 1).stdout
    lines = said.splitlines()
    assert any(line.startswith("decode 2 at 8: ") and line.endswith("tokens/s") for line in lines)
    assert "prefill" not in said and "of limit: the time that the measured rates allow" in said
    assert [line.split()[0] for line in lines if line.startswith("  ") and "%" in line] == [*KINDS, "total"]


def test_an_encoder_is_profiled_without_drawing(tmp_path):
    said = octavo("profile", tiny_pooling.embedder(tmp_path / "m"), "--prompt", 9, "--batch", 0, "--steps", 1).stdout
    rows = [line.split()[0] for line in said.splitlines() if line.startswith("  ") and "%" in line]
    assert {*rows, "head"} == {*KINDS, "total"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--isa", "mmx"), "--isa: 'mmx' is not accepted; this processor runs"),
        (("--prompt", 0, "--batch", 0), "--batch: 0 is not accepted; above 0, or --prompt"),
        (("--context", -1), "--context: -1 is not accepted; an integer of 0 or more"),
        (("--steps", 0), "--steps: 0 is not accepted"),
        (("--batch", 4000, "--context", 2000000, "--prompt", 0), "--context: 2000000 is not accepted;"),
    ],
)
def test_profile_refuses_what_makes_no_step(folder, args, said):
    done = octavo("profile", folder, *args, code=2)
    assert said in done.stderr.splitlines()[-1] and done.stdout == ""


def test_offline_compares_batches_and_keeps_the_record(folder, tmp_path):
    other = tmp_path / "other.py"
    other.write_text("import json, sys\nprint(json.dumps({'output_tokens_per_second': int(sys.argv[1])}))\n")
    args = ("--requests", 3, "--prompt", 9, "--tokens", 4, "--runs", 2, "--memory", "256MiB", "--no-picture")
    against = ("--against", f"{sys.executable} {other} {{prompt}}")
    said = octavo("bench", "offline", folder, *args, "--out", tmp_path / "kept", *against).stdout
    assert "3 requests at once, 9 tokens in, 4 out; medians of 2" in said
    found = json.loads((tmp_path / "kept" / "result.json").read_text())
    assert found["benchmark"] == "offline" and found["results"]["medians"]["against"]["output_tok_s"] == 9
    assert found["settings"]["threads"] >= 1 and set(found["results"]["ratios"]) == {"output_tok_s"}


def test_offline_takes_the_reference_too(folder):
    args = ("--prompt", 9, "--tokens", 2, "--runs", 1, "--executor", "reference", "--memory", "256MiB", "--json")
    found = json.loads(octavo("bench", "offline", folder, *args).stdout)["results"]
    assert set(found["medians"]["octavo"]) == {"prefill_tok_s", "decode_tok_s"} and found["ratios"] == {}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--runs", 0), "--runs: 0 is not accepted"),
        (("--requests", 0), "--requests: 0 is not accepted"),
        (("--prompt", 9000), "max_len: 9001 is not accepted; from 1 to 512"),
        (("--tokens", -3), "--tokens: -3 is not accepted"),
        (("--prompt", 9, "--against", "no-such-command"), "--against: no-such-command does not start"),
    ],
)
def test_offline_refuses_in_one_line(folder, args, said):
    done = octavo("bench", "offline", folder, "--memory", "256MiB", *args, code=2)
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_kernels_is_a_record_of_each_case(tmp_path):
    args = ("--only", "9-3-64 decode 1 at 512", "--size", "1MiB", "--seconds", 0.001, "--threads", 1, "--no-picture")
    isas = native.isas()[-2:]
    chosen = [word for isa in isas for word in ("--isa", isa)]
    said = octavo("bench", "kernels", *args, *chosen, "--out", tmp_path).stdout
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["benchmark"] == "kernels" and list(found["results"]["rates"]) == isas
    for isa, case in zip(isas, found["results"]["cases"], strict=True):
        assert (case["isa"], case["kind"], case["of"]) == (isa, "attend", "bandwidth")
        rates = found["results"]["rates"][isa]
        assert case["bandwidth_share"] == pytest.approx(case["gb_s"] / rates["read_gb_s"])
        assert case["bytes_read"] == case["ops"] * 512 * 3 * 64 * 2 * 2 and case["ops"] == 3
        assert f"attention 9-3-64: share of the bandwidth, microseconds of one op ({isa})" in said


def test_kernels_refuses_a_name_that_no_case_has():
    done = octavo("bench", "kernels", "--only", "W3", code=2)
    assert "--only: 'W3' is not accepted; part of a case's name" in done.stderr
