"""`octavo bench` as a process: against our server in this one, and starting one itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tiny_llama
from scripted_engine import ScriptedEngine
from served import served, until

from octavo.bench.startup import planned_bytes

LOAD = ("--num-prompts", "6", "--input-len", "8", "--output-len", "4", "--vocab-size", "300", "--ignore-eos")


@pytest.fixture(scope="module")
def url():
    """A server without tokenizer that asks for a key."""
    with served(ScriptedEngine(slots=16), lambda: None, api_keys=("sesame",)) as server:
        until(server.front.ready)
        yield server.url


def bench(*args: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `octavo bench` and check its exit code."""
    command = [sys.executable, "-m", "octavo", "bench", *map(str, args)]
    env = os.environ | {"OPENAI_API_KEY": "sesame"} | env
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_serve_prints_keeps_and_draws(url, tmp_path):
    out = tmp_path / "new"
    said = bench("serve", "--url", url, *LOAD, "--sweep", "concurrency:1,3", "--goodput", "e2el:60000", "--out", out)
    assert "concurrency 3: 6 of 6 requests of tiny good" in said.stdout and "error rate 0.0%" in said.stdout
    assert "from sending (connecting included) to the first chunk" in said.stdout, "what the words mean"
    text = (out / "result.json").read_text()
    found = json.loads(text)
    assert "sesame" not in text and found["benchmark"] == "serve" and found["settings"]["output_len"] == 4
    assert [point["output_tokens"] for point in found["results"]["points"]] == [24, 24]
    assert all(point["goodput"] == point["request_rate"] for point in found["results"]["points"])
    rows = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    assert [row["point"] for row in rows] == [0] * 6 + [1] * 6 and all(row["output_tokens"] == 4 for row in rows)
    assert (out / "result.png").read_bytes().startswith(b"\x89PNG")


def test_serve_json_is_the_record_and_nothing_is_written(url, tmp_path):
    args = ("--request-rate", 200, "--burstiness", 0.5, "--seed", 3, "--endpoint", "/v1/completions", "--json")
    said = bench("serve", "--url", url, *LOAD, *args, "--extra-body", '{"top_k": 3}', "--temperature", 0.5)
    found = json.loads(said.stdout)
    assert found["results"]["points"][0]["failed"] == 0 and found["settings"]["top_k"] == 3
    assert found["results"]["definitions"]["ttft"] and found["settings"]["temperature"] == 0.5
    assert list(tmp_path.iterdir()) == []


def test_compare_gives_ratios(url, tmp_path):
    args = ("--url", f"one={url}", "--url", f"two={url}/v1", "--repeats", 3, "--out", tmp_path)
    said = bench("compare", *LOAD, *args)
    assert "two/one" in said.stdout and "medians of 3 rounds by turns" in said.stdout
    (point,) = json.loads((tmp_path / "result.json").read_text())["results"]["points"]
    assert [list(turn) for turn in point["rounds"]] == [["one", "two"], ["two", "one"], ["one", "two"]]
    assert point["ratios"]["two"]["output_tok_s"]["pairs"] == 3
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 3 * 2
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("serve", "--num-prompts", 0), "--num-prompts: 0 is not accepted; an integer of 1 or more"),
        (("serve", "--url", "nowhere"), "--url: 'nowhere' is not accepted; such as http"),
        (("serve", "--sweep", "x"), "--sweep: 'x' is not accepted; concurrency: or rate:"),
        (("serve", "--extra-body", "[]"), "--extra-body: '[]' is not accepted; a JSON object"),
        (("serve", "--random-range-ratio", 1), "--random-range-ratio: 1.0 is not accepted; from 0 to below 1"),
        (("serve", "--timeout", 0), "--timeout: 0.0 is not accepted; above 0"),
        (("serve", "--api-key", "wrong"), "/v1/models does not answer: HTTP 401"),
        (("serve", "--endpoint", "/v1/chat/completions", "--prompt-form", "ids"), "--prompt-form: 'ids' is not"),
        (("compare", "--url", "http://a"), "--url: ['http://a'] is not accepted; at least two"),
        (("compare", "--url", "x=http://a", "--url", "x=http://b"), "is not accepted; at least two, each with another"),
        (("startup", "--runs", 0, "--server-command", "x {port}"), "--runs: 0 is not accepted"),
        (("startup", "--server-command", "no-port"), "--server-command: 'no-port' is not accepted"),
        (("startup", "--server-command", "no-such-program {port}"), "no-such-program cannot be started"),
        (("startup", "--server-command", "sh -c 'echo why {port} >&2; exit 3'"), "ended with code 3: why "),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(url, args, said):
    given = ("--url", url) if args[0] == "serve" and "--url" not in args else ()
    done = bench(*args, *given, code=2)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"octavo bench {args[0]}: "), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("cold", [True, False])
def test_startup_times_our_server(tmp_path, cold):
    folder = tiny_llama.write_folder(tmp_path / "model")
    args = ("--memory", "256MiB", "--max-num-seqs", 4, "--executor", "reference", "--runs", 1, "--json")
    cache = tmp_path / "cache"
    found = json.loads(bench("startup", folder, *args, *["--cold"] * cold, "--cache-dir", cache).stdout)
    (one,) = found["results"]["runs"]
    assert 0 < one["ready_seconds"] < one["first_byte_seconds"] and one["cpu_seconds"] > 0
    assert one["resident_bytes"] - one["planned_bytes"] == one["over_bytes"] and one["planned_bytes"] > 0
    command = found["settings"]["server_command"]
    assert "--memory 268435456" in command and "--executor reference" in command and str(cache) in command


def test_startup_times_another_server(tmp_path):
    """Here it is ours by its command, so nothing is known of it but its answers."""
    folder = tiny_llama.write_folder(tmp_path / "model")
    serve = f"{sys.executable} -m octavo serve {folder} --memory 256MiB --executor reference --port {{port}}"
    said = bench("startup", "--server-command", serve, "--ready-path", "/ready", "--runs", 1, "--out", tmp_path)
    assert ": 1 warm start\n" in said.stdout and "first_byte_seconds" in said.stdout
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "result.json").read_text())["results"]["runs"]) == 1


def test_the_plan_is_read_from_our_metrics_only():
    page = (
        'octavo_memory_planned_bytes{category="weights"} 9.5e+07\noctavo_memory_planned_bytes{category="kv_cache"} 3\n'
    )
    assert planned_bytes(page) == 95_000_003
    assert planned_bytes("vllm:num_requests_running 1\n") is None
