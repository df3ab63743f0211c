"""Families of processes: this one with a child, and ones laid out in a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from served import until

from octavo.bench import processes

CHILD = """
import subprocess, sys, time
block = bytearray(b"x") * (64 * 2**20)
end = time.process_time() + 0.2
while time.process_time() < end: pass
grandchild = subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"])
sys.stdin.read()
"""


@pytest.fixture
def child():
    """A process that holds 64 MiB, has used 0.2 s and has a child of its own; both end with their input."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    yield process
    process.communicate(timeout=20)


def test_a_family_has_its_time_and_its_memory(child):
    family = processes.family(child.pid)
    assert len(family) == 2 and family[0] == child.pid
    assert set(family) < set(processes.family(os.getpid()))
    assert processes.cpu_seconds(child.pid) >= 0.2
    assert 64 * 2**20 < processes.resident_bytes(child.pid) < 200 * 2**20


def test_what_has_ended_takes_nothing():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait(20)
    assert processes.family(process.pid) == []
    assert processes.cpu_seconds(process.pid) == processes.resident_bytes(process.pid) == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_is_found_by_its_port(family):
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as sock:
        port = sock.getsockname()[1]
        assert processes.listener(host, port) == os.getpid()
        assert processes.listener("example.org", port) is None, "not this machine"
        with socket.create_connection((host, port)) as client:
            assert processes.listener(host, client.getsockname()[1]) is None, "connected, not listening"
    until(lambda: processes.listener(host, port) is None)


def test_memory_and_time_are_summed(tmp_path):
    for pid, parent, name in ((10, 1, "front (of) house"), (11, 10, "engine"), (12, 11, "x"), (13, 1, "other")):
        folder: Path = tmp_path / str(pid)
        folder.mkdir()
        ticks = " ".join(["0"] * 9 + ["100", "50", "7", "3"])
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} {ticks} 20 0\n")
        (folder / "smaps_rollup").write_text(f"00-ff ---p 00:00 0 [rollup]\nRss: 999 kB\nPss:        {pid} kB\n")
    (tmp_path / "12" / "smaps_rollup").unlink()
    assert processes.family(10, tmp_path) == [10, 11, 12]
    assert processes.resident_bytes(10, tmp_path) == 21 * 1024
    assert processes.cpu_seconds(10, tmp_path) == 3 * 160 / os.sysconf("SC_CLK_TCK")
