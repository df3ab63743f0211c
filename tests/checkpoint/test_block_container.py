"""Blocks kept in files: whole or not at all, whoever writes, whatever is wrong with the file or its folder."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from octavo.checkpoint import container
from octavo.checkpoint.container import kept_in, open_block, write_block

HEAD = {"source": "/x", "version": [1, "ü"]}
BLOCK = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)


def write(path: Path, block: np.ndarray = BLOCK, head: dict = HEAD, cuts: tuple[int, ...] = (1, 5_000, 99_999)):
    """Write, and wait until the file has its name."""
    mapped = write_block(path, head, block.nbytes, iter(np.split(block, cuts)))
    keeping = [thread for thread in threading.enumerate() if thread.name == "octavo-keep"]
    for thread in keeping:
        thread.join()
    return mapped


@pytest.mark.parametrize("chunk", [1, 4096, 50_000, 1 << 23])
@pytest.mark.parametrize("size", [0, 1, 4096, 100_000])
def test_what_was_written_is_read_from_the_same_file(tmp_path, monkeypatch, chunk, size):
    monkeypatch.setattr(container, "CHUNK", max(chunk, size // 100, 64))
    path = tmp_path / "new" / "folder" / "a.packed"
    written = write(path, BLOCK[:size], cuts=(size // 3, size // 2))
    again = open_block(path, HEAD, size)
    assert again is not None
    for block in (written, again):
        assert np.array_equal(block, BLOCK[:size]) and not block.flags.writeable
        assert block.ctypes.data % 64 == 0
    assert os.listdir(path.parent) == ["a.packed"]
    assert [(kept.path, kept.head, kept.nbytes) for kept in kept_in(path.parent)] == [(path, HEAD, path.stat().st_size)]


def test_another_head_or_size_is_another_block(tmp_path):
    path = tmp_path / "a.packed"
    write(path)
    for head, size in [(HEAD | {"source": "/y"}, len(BLOCK)), ({}, len(BLOCK)), (HEAD, len(BLOCK) - 1)]:
        assert open_block(path, head, size) is None
    assert open_block(tmp_path / "b.packed", HEAD, len(BLOCK)) is None
    assert open_block(tmp_path, HEAD, len(BLOCK)) is None


def test_no_truncated_or_foreign_file_is_taken(tmp_path):
    path = tmp_path / "a.packed"
    write(path)
    whole = path.read_bytes()
    start = len(whole) - len(BLOCK)
    for length in (0, 1, 8, 23, 24, 30, start - 1, start, start + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert open_block(path, HEAD, len(BLOCK)) is None, length
    path.write_bytes(whole + b"\0")
    assert open_block(path, HEAD, len(BLOCK)) is None
    for at in [*range(24), 30, start - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert open_block(path, HEAD, len(BLOCK)) is None, at
    path.write_bytes(b"GGUF" * (len(whole) // 4))
    assert open_block(path, HEAD, len(BLOCK)) is None
    assert kept_in(tmp_path) == []


def test_a_replaced_file_stays_valid_where_it_is_mapped(tmp_path):
    path = tmp_path / "a.packed"
    write(path)
    before = open_block(path, HEAD, len(BLOCK))
    write(path, BLOCK[::-1].copy(), HEAD | {"version": 2})
    assert np.array_equal(before, BLOCK)
    assert open_block(path, HEAD, len(BLOCK)) is None
    assert np.array_equal(open_block(path, HEAD | {"version": 2}, len(BLOCK)), BLOCK[::-1])


WRITER = """
import sys, numpy as np
from pathlib import Path
from octavo.checkpoint.container import open_block, write_block
path, seed = Path(sys.argv[1]), int(sys.argv[2])
block = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8)
for turn in range(20):
    assert np.array_equal(write_block(path, {"same": True}, block.nbytes, np.split(block, 7 + seed)), block)
    found = open_block(path, {"same": True}, block.nbytes)
    assert found is None or np.array_equal(found, block)
"""


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.packed"
    code = WRITER.replace("np.split(block, 7 + seed)", "np.split(block, [7 + seed, 200_000])")
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(seed)], stderr=subprocess.PIPE) for seed in (0, 1)
    ]
    for process in running:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and said == b"", said
    block = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8)
    assert np.array_equal(open_block(path, {"same": True}, len(block)), block)
    assert os.listdir(tmp_path) == ["a.packed"]


def test_no_room_is_found_before_the_first_part_and_leaves_nothing(tmp_path):
    asked = []

    def parts() -> Iterator[np.ndarray]:
        asked.append(1)
        yield BLOCK

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
            write_block(tmp_path / "a.packed", HEAD, BLOCK.nbytes, parts())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == [] and not asked


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(file: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_block(tmp_path / "a.packed", HEAD, BLOCK.nbytes, [BLOCK])
    assert os.listdir(tmp_path) == []


def test_parts_that_fail_leave_nothing(tmp_path):
    def parts() -> Iterator[np.ndarray]:
        yield BLOCK[:10]
        raise ValueError("holds NaN")

    with pytest.raises(ValueError, match="holds NaN"):
        write_block(tmp_path / "a.packed", HEAD, BLOCK.nbytes, parts())
    assert os.listdir(tmp_path) == []


def test_a_file_the_disk_does_not_take_is_not_kept_but_used(tmp_path, monkeypatch, caplog):
    def broken(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(container.os, "fdatasync", broken)
    assert np.array_equal(write(tmp_path / "a.packed"), BLOCK)
    assert os.listdir(tmp_path) == []
    assert [record.message for record in caplog.records] == [f"{tmp_path / 'a.packed'}: not kept: Input/output error"]


def test_what_a_dead_writer_left_is_removed_and_what_one_writes_is_not(tmp_path):
    left, busy = tmp_path / "a.packed.1.part", tmp_path / "b.packed.2.part"
    left.write_bytes(b"half")
    with busy.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(tmp_path / "c.packed")
        assert sorted(os.listdir(tmp_path)) == ["b.packed.2.part", "c.packed"]


def test_a_file_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    """Another process may sweep between the making of a file and its lock."""
    plain, swept = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not swept:
            swept.append(1)
            container._sweep(tmp_path)
            assert os.listdir(tmp_path) == []
        plain(file, how)

    monkeypatch.setattr(container.fcntl, "flock", late)
    monkeypatch.setattr(container, "_sweep", lambda folder: [path.unlink() for path in folder.glob("*.part")])
    assert np.array_equal(write(tmp_path / "a.packed"), BLOCK)
    assert swept and os.listdir(tmp_path) == ["a.packed"]
