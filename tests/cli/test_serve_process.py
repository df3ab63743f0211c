"""`octavo serve` as a process: the block it prints, the command in it, signals, a taken port."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tiny_llama
import tiny_pooling

SMALL = ("--memory", "256MiB", "--max-num-seqs", "4", "--port", "0")


@contextmanager
def serving(*args: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server's process and its URL, as soon as it has one."""
    command = [sys.executable, "-m", "octavo", "serve", *map(str, args), *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = threading.Timer(60, process.kill)  # reading from it never takes longer
    limit.start()
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r"status at (http://\S+)/ready", first)
        assert found, first + process.stderr.read()
        yield process, found[1]
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def get(url: str) -> tuple[int, dict]:
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def block(process: subprocess.Popen[str]) -> str:
    """What is printed when ready, up to the command to paste."""
    assert process.stdout is not None
    lines = []
    while not lines or not lines[-1].startswith("  -d "):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr and process.stderr.read()
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_serve_prints_a_command_that_works_and_ends_cleanly(tmp_path, number):
    folder = tiny_llama.write_folder(tmp_path / "model", tokenizer=True)
    with serving(folder, "--served-model-name", "tiny", "--served-model-name", "other") as (process, url):
        assert get(f"{url}/live")[0] == 200
        said = block(process)
        assert get(f"{url}/ready")[0] == 200
        assert [card["id"] for card in get(f"{url}/v1/models")[1]["data"]] == ["tiny", "other"]
        rows = dict(line.split(maxsplit=1) for line in said.splitlines() if re.match(r" *\w+ +\S", line))
        assert rows["file"] == str(folder) and rows["model"] == "tiny" and rows["licence"] == "not stated"
        assert re.fullmatch(r"[\d.]+ [KMG]iB planned", rows["memory"])
        assert "threads" in rows["kernels"] and rows["room"] == "2048 tokens at once: 4 sequences of 512"
        answer = json.loads(pasted(said))
        assert answer["model"] == "tiny" and answer["choices"][0]["message"]["role"] == "assistant"
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def pasted(said: str) -> str:
    """What the printed command prints, by curl, or by its parts where there is no curl."""
    command = said[said.index("curl ") :]
    if shutil.which("curl"):
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    words = shlex.split(command.replace("\\\n", " "))
    name, _, value = words[words.index("-H") + 1].partition(": ")
    request = urllib.request.Request(words[1], words[words.index("-d") + 1].encode(), {name: value})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("make", "gives"),
    [
        (tiny_pooling.embedder, "embeddings of 48 numbers"),
        (tiny_pooling.classifier, "scores of 3 labels: calm, odd, wild"),
    ],
    ids=["embedder", "classifier"],
)
def test_a_model_that_pools_says_what_it_gives_and_the_command_gives_it(tmp_path, make, gives):
    with serving(make(tmp_path / "model")) as (process, _):
        said = block(process)
        assert f"gives    {gives}\n" in said
        answer = json.loads(pasted(said))
        assert len(answer["data"][0].get("embedding") or answer["data"][0]["probs"]) in (48, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_a_taken_port_is_one_line_and_exit_2(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "model")
    with serving(folder, "--executor", "reference") as (_, url):
        port = url.rpartition(":")[2]
        again = [sys.executable, "-m", "octavo", "serve", str(folder), "--port", port, "--memory", "256MiB"]
        done = subprocess.run(again, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--port" in done.stderr and port in done.stderr


def test_keys_bodies_and_metrics_follow_the_flags(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "model")
    flags = ("--api-key", "sesame", "--max-body-bytes", 4096, "--metrics-compat", "vllm")
    with serving(folder, *flags) as (process, url):
        said = block(process)
        assert "Authorization: Bearer" in said and "sesame" not in said
        assert get(f"{url}/v1/models")[0] == 401
        headers = {"Authorization": "Bearer sesame", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/completions", b" " * 5000, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as error:
            assert error.code == 413
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
            assert "vllm:num_requests_running" in page.read().decode()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as garbage:
            garbage.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
            assert garbage.recv(100).startswith(b"HTTP/1.1 400 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert "Invalid HTTP" not in process.stderr.read(), "anybody could fill the log"


def test_a_failure_behind_the_headers_is_one_line_and_exit_2(tmp_path):
    """The tokenizer is read when the server runs already; only the command says what is wrong, and says it once."""
    folder = tiny_llama.write_folder(tmp_path / "model", tokenizer=True)
    (folder / "tokenizer.json").write_text("{")
    command = [sys.executable, "-m", "octavo", "serve", str(folder), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("octavo: loading", "loading"))]
    assert done.returncode == 2 and done.stdout == ""
    assert len(lines) == 1 and lines[0].startswith("octavo serve: ") and "tokenizer.json" in lines[0], done.stderr


def test_a_setting_the_engine_refuses_is_told_by_its_flag(tmp_path):
    """The engine process finds out; the command says which flag, once, and leaves no process."""
    folder = tiny_llama.write_folder(tmp_path / "model")
    command = [sys.executable, "-m", "octavo", "serve", str(folder), *SMALL, "--max-model-len", "513"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("octavo: loading", "loading"))]
    assert done.returncode == 2 and done.stdout == ""
    assert lines == ["octavo serve: --max-model-len: 513 is not accepted; from 1 to 512, which the model was made for"]


def test_a_second_signal_ends_what_runs(tmp_path):
    """Its stream gets an error event, the command exit code 0, and the log nothing."""
    folder = tiny_llama.write_folder(tmp_path / "model", tokenizer=True)
    with serving(folder, "--executor", "reference", "--max-num-batched-tokens", "4") as (process, url):
        block(process)
        body = json.dumps({"prompt": "a", "max_tokens": 500, "stream": True, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            while get(f"{url}/ready")[1].get("status") != "draining":
                stream.readline()
            process.send_signal(signal.SIGTERM)
            events = [line for line in stream if line.strip()]
        assert events[-1].startswith(b'data: {"error":') and b"shutting down" in events[-1]
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert {line for line in process.stderr if not line.startswith("loading")} == set()
