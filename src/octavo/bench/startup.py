"""`octavo bench startup`: a server's process from its start to its first streamed byte, and the memory it then holds.

Warm starts have one before them that is not counted, so that all caches are filled; with --cold each has an empty
cache folder, and the files its command names are put out of the system's page cache. Another server can be started
instead of ours, by its command. Invariant: what was started is ended, whatever happens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import uvloop

from octavo.bench import picture, processes, record
from octavo.bench.client import Pool, Target, body_of, model_of
from octavo.bench.keep import Keep, bar
from octavo.bench.stream import Answer
from octavo.core.errors import InvalidValue, UserError
from octavo.core.table import binary, columns, count

START_SECONDS = 600.0  # vLLM takes minutes
POLL_SECONDS = 0.005  # between looks whether it is ready
SETTLE_SECONDS = 1.0  # without growth, and the memory is what it stays; ours is touched in the background
END_SECONDS = 20.0
PROMPT = list(range(100, 108))
DEFINITIONS = {
    "ready_seconds": "from the start of the process to the first answer of 200 at the ready path",
    "first_byte_seconds": "ready_seconds, and from sending a request of 8 token ids to its first chunk with choices",
    "cpu_seconds": "processor time of the process and its children until then",
    "resident_bytes": "of the process and its children, shared pages once (PSS), once it grows no more",
    "planned_bytes": "weights and keys and values as the server's /metrics says; null where it does not",
    "over_bytes": "resident_bytes - planned_bytes",
}


def run(args: argparse.Namespace) -> int:
    """Start the server several times, print, keep."""
    runs, cold, given = args.start["runs"], args.start["cold"], args.start["command"]
    if runs < 1:
        raise InvalidValue("runs", runs, "an integer of 1 or more")
    if given:
        command = shlex.split(given)
    else:
        command = [sys.executable, "-m", "octavo", "serve", str(args.path), "--port", "{port}", *args.passed_on]
    if not any("{port}" in word for word in command):
        raise InvalidValue("server_command", given, "a command with {port} in it")
    keep = Keep(args)
    server = Path(command[0]).name if given else f"octavo serve {args.model}"
    told = {"server": server, "server_command": shlex.join(command), "cold": cold, "runs": runs}
    begun = record.begin("startup", told)
    found = []
    with bar("starts", runs + (not cold)) as told_bar:
        for number in range(runs + (not cold)):
            with tempfile.TemporaryDirectory() as folder:
                words = command
                if cold:
                    forget(command)
                    words = command if given else [*command, "--cache-dir", folder]
                one = start(words, args.start["ready_path"])
            told_bar.update(1)
            if cold or number:
                found.append(one)
    whole = record.end(begun, {"definitions": DEFINITIONS, "runs": found})
    keep.result(whole, picture.starts)
    print(json.dumps(whole, indent=2) if args.json else f"{show(whole)}\n\n{record.title(whole)}")
    return 0


def forget(command: list[str]) -> None:
    """Put the files and folders that a command names out of the page cache, as far as nobody maps them."""
    for word in command:
        path = Path(word)
        for file in [path] if path.is_file() else path.rglob("*") if path.is_dir() else []:
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(command: list[str], ready_path: str) -> dict[str, Any]:
    """One start and its figures. Raises UserError where the server ends, or is not ready in time."""
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    target = Target(f"http://127.0.0.1:{port}", None, START_SECONDS)
    began = time.perf_counter()
    with started(words) as (process, said):
        while not answers(port, ready_path):
            if process.poll() is not None:
                raise UserError(f"{shlex.join(words)} ended with code {process.returncode}: {_last_line(said)}")
            if time.perf_counter() - began > START_SECONDS:
                raise UserError(f"{shlex.join(words)} is not ready after {START_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        ready = time.perf_counter() - began
        answer, page = uvloop.run(_first(target))
        if answer.error is not None:
            raise UserError(f"{shlex.join(words)} does not answer a request: {answer.error}")
        cpu = processes.cpu_seconds(process.pid)
        resident, planned = settled(process.pid), planned_bytes(page)
    return {
        "ready_seconds": ready,
        "first_byte_seconds": ready + answer.first - answer.sent,
        "cpu_seconds": cpu,
        "resident_bytes": resident,
        "planned_bytes": planned,
        "over_bytes": None if planned is None else resident - planned,
    }


async def _first(target: Target) -> tuple[Answer, str]:
    """A short request's answer, and the page of metrics, empty where there is none."""
    pool, answer = Pool(target), Answer()
    try:
        more = {"max_tokens": 4, "temperature": 0}
        body = body_of("/v1/completions", await model_of(pool), PROMPT, more)
        await pool.stream(target.post("/v1/completions", json.dumps(body).encode()), answer)
        try:
            page = (await pool.read("/metrics")).decode(errors="replace")
        except UserError:
            page = ""
    finally:
        pool.close()
    return answer, page


@contextmanager
def started(words: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process of its own session and the file of what it says; ended behind, with all it started."""
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)
        except OSError as error:
            raise UserError(f"{words[0]} cannot be started: {error.strerror}") from None
        try:
            yield process, said
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return sock.recv(32).split()[1:2] == [b"200"]
    except OSError:
        return False


def settled(pid: int) -> int:
    """Memory of a family of processes, once it has stopped growing by more than a hundredth a second."""
    deadline, before = time.perf_counter() + END_SECONDS, 0
    while True:
        now = processes.resident_bytes(pid)
        if now <= before * 1.01 or time.perf_counter() > deadline:
            return max(now, before)
        before = now
        time.sleep(SETTLE_SECONDS)


def planned_bytes(page: str) -> int | None:
    """Weights and the memory of keys and values, of our page of metrics; None of others'."""
    found = dict(re.findall(r'^octavo[:_]memory_planned_bytes\{category="(\w+)"\} (\S+)', page, re.MULTILINE))
    if not {"weights", "kv_cache"} <= set(found):
        return None
    return int(float(found["weights"]) + float(found["kv_cache"]))


def show(found: dict[str, Any]) -> str:
    """Medians, and each start."""
    runs, kind = found["results"]["runs"], "cold" if found["settings"]["cold"] else "warm"
    rows = [("", "median", *(f"{i}" for i in range(1, len(runs) + 1)), "")]
    for name, about in DEFINITIONS.items():
        values = [run[name] for run in runs]
        if values[0] is not None:
            shape = binary if name.endswith("bytes") else "{:.2f}".format
            rows.append((name, shape(statistics.median(values)), *(shape(value) for value in values), about))
    title = f"{found['settings']['server']}: {count(len(runs), f'{kind} start')}"
    return f"{title}\n{columns(rows, right=range(1, len(runs) + 2), indent=2)}"
