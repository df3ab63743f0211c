"""`octavo chat` on a terminal: the prompt, Ctrl-C within an answer and at the prompt, the end of input."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_llama

CTRL_D = b"\x04"


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C counts, even where the tests run in the background and were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose likeliest answer repeats itself for ever."""
    return tiny_llama.write_folder(tmp_path_factory.mktemp("model"), tokenizer=True, max_len=16384, layers=4)


@contextmanager
def chatting(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A chat whose three streams are a terminal, and our end of it."""
    ours, theirs = pty.openpty()
    flags = ["--memory", "512MiB", "--max-tokens", "16000", "--temperature", "0"]
    flags += ["--executor", "reference"]
    command = [sys.executable, "-m", "octavo", "chat", str(folder), *flags]
    env = os.environ | {"TERM": "dumb"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(terminal: int, wanted: str, seconds: float = 60) -> str:
    """What the terminal shows, until it ends with `wanted`."""
    shown, deadline = "", time.monotonic() + seconds
    while not shown.endswith(wanted):
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come: {shown!r}"
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_interrupt_ends_the_answer_and_then_the_chat(folder):
    with chatting(folder) as (process, terminal):
        assert "/exit" in read_until(terminal, "> ")
        os.write(terminal, b"hello\n")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = read_until(terminal, "]\r\n> ")
        assert 0 < int(re.findall(r"\[(\d+) tokens, .* tok/s", said)[-1]) < 16000
        os.write(terminal, b"/reset\n")
        assert "begins anew" in read_until(terminal, "> ")
        time.sleep(0.3)  # a signal between the prompt and the wait for a key is seen with the next key only
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_end_of_input_ends_the_chat(folder):
    with chatting(folder) as (process, terminal):
        read_until(terminal, "> ")
        os.write(terminal, CTRL_D)
        assert process.wait(timeout=20) == 0
