"""Kept weights: the same bytes as packed ones, found again, and never those of another version of the model."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import threading

import numpy as np
import pytest
import tiny_llama

from octavo.checkpoint.gguf import TYPES
from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.kernels import weight as forms
from octavo.kernels.weight import Weight
from octavo.models import packed
from octavo.models.load import footprint, load
from octavo.models.packed import load_kept
from octavo.models.registry import read_spec
from octavo.quant.format import format_of, pack

DIGESTS = {
    ("Q8_0", "auto"): "9cb898ffa5bf36b0",
    ("Q4_0", "auto"): "ae1143cd2776e811",
    ("Q4_1", "auto"): "2d2f98bd2a27ab25",
    ("F32", "auto"): "5e8c5471faf8ca92",
    ("F32", "float32"): "27d70381f98232b5",
    ("E4M3/32", "auto"): "017d259288658a14",
    ("NF4/64", "auto"): "02e6b16d82b22a34",
}


def settled() -> None:
    """Wait until what was written has its name."""
    for thread in [thread for thread in threading.enumerate() if thread.name == "octavo-keep"]:
        thread.join()


def both(path, folder, dtype="auto", progress=None):
    """Packed weights, and those of the folder."""
    with open_source(path) as source:
        spec = read_spec(source)
        found = load(source, spec, dtype=dtype), load_kept(source, spec, folder, dtype=dtype, progress=progress)
    settled()
    return found


def same(one, other) -> bool:
    """Bitwise."""
    assert list(one) == list(other)
    for name, weight in one.items():
        twin = other[name]
        if isinstance(weight, Weight):
            fields = [(w.layout, w.rows, w.cols, w.group) for w in (weight, twin)]
            assert fields[0] == fields[1] and np.array_equal(weight.data, twin.data), name
        else:
            assert weight.dtype == twin.dtype == np.float32 and np.array_equal(weight, twin), name
    return True


def mapped(weights) -> set[str]:
    """The shared, read-only files in which these weights lie."""
    spans = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in words[0].split("-"))
            if words[1] == "r--s":  # shared with every process that maps the file
                spans.append((first, last, words[5].strip()))
    starts = [w.data.ctypes.data if isinstance(w, Weight) else w.ctypes.data for w in weights.values()]
    found = [{name for first, last, name in spans if first <= start < last} for start in starts]
    assert all(found)
    return set().union(*found)


@pytest.fixture
def packings(monkeypatch):
    """How often anything was packed since the last look."""
    counted = []
    whole = packed.packed_parts

    def counting(entries, progress=None):
        counted.append(1)
        return whole(entries, progress)

    monkeypatch.setattr(packed, "packed_parts", counting)

    def since() -> int:
        found = len(counted)
        counted.clear()
        return found

    return since


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("kind", ["folder", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_kept_weights_are_those_that_are_packed(tmp_path, packings, kind, dtype):
    made = {"layers": 2, "heads": 6, "kv_heads": 3, "inner": 96, "vocab": 250, "tied": False, "bias": True}
    if kind == "folder":
        path = tiny_llama.write_folder(tmp_path / "model", **made, shards=2)
    else:
        path = tiny_llama.write_gguf(tmp_path / "x.gguf", **made, dtype=kind)
    for times in (1, 0, 0):
        shares: list[float] = []
        weights, kept = both(path, tmp_path / "kept", dtype, shares.append)
        assert packings() == times and same(weights, kept) and shares[-1] == 1.0
        [file] = (tmp_path / "kept").iterdir()
    assert mapped(kept) == {str(file)}
    with open_source(path) as source:
        planned = sum(footprint(source, read_spec(source), dtype).values())
    assert planned <= file.stat().st_size <= planned + 64 * len(kept) + 2 * mmap.PAGESIZE + 8192


def test_each_dtype_has_its_own(tmp_path, packings):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="F32")
    for dtype, times in [("auto", 1), ("float32", 1), ("auto", 0), ("float32", 0)]:
        assert same(*both(path, tmp_path / "kept", dtype)) and packings() == times
    assert len(os.listdir(tmp_path / "kept")) == 2


def test_a_model_that_changed_takes_the_place_of_its_old_version(tmp_path, packings):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", seed=1, dtype="Q8_0")
    both(path, tmp_path / "kept")
    before = path.stat()
    tiny_llama.write_gguf(path, seed=2, dtype="Q8_0")
    assert path.stat().st_size == before.st_size
    packings()
    assert same(*both(path, tmp_path / "kept")) and packings() == 1
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert same(*both(path, tmp_path / "kept")) and packings() == 1
    assert len(os.listdir(tmp_path / "kept")) == 1


def test_a_header_that_changed_counts_though_size_and_time_did_not(tmp_path, packings):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q8_0")
    before = path.stat()
    both(path, tmp_path / "kept")
    data = path.read_bytes()
    assert b"tiny llama" in data
    path.write_bytes(data.replace(b"tiny llama", b"tiny camel"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    packings()
    assert same(*both(path, tmp_path / "kept")) and packings() == 1


@pytest.mark.parametrize("what", ["FORMS", "__version__"])
def test_another_version_of_ours_packs_anew(tmp_path, packings, monkeypatch, what):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q4_0")
    both(path, tmp_path / "kept")
    monkeypatch.setattr(packed if what == "FORMS" else packed.octavo, what, 1000 if what == "FORMS" else "9.9")
    packings()
    assert same(*both(path, tmp_path / "kept")) and packings() == 1
    assert same(*both(path, tmp_path / "kept")) and packings() == 0
    assert len(os.listdir(tmp_path / "kept")) == 1


@pytest.mark.parametrize("harm", ["cut", "empty", "garbled", "foreign"])
def test_a_damaged_file_is_packed_anew(tmp_path, packings, harm):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q4_1")
    both(path, tmp_path / "kept")
    [file] = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(
        {"cut": whole[:-1], "empty": b"", "garbled": whole[:99] + b"\0" + whole[100:], "foreign": b"GGUF"}[harm]
    )
    packings()
    assert same(*both(path, tmp_path / "kept")) and packings() == 1
    assert file.read_bytes() == whole


def test_what_is_kept_of_models_that_are_gone_is_removed(tmp_path):
    gone = tiny_llama.write_gguf(tmp_path / "gone.gguf", dtype="Q8_0")
    stays = tiny_llama.write_gguf(tmp_path / "stays.gguf", dtype="Q8_0")
    both(gone, tmp_path / "kept")
    both(stays, tmp_path / "kept")
    assert len(os.listdir(tmp_path / "kept")) == 2
    gone.unlink()
    both(tiny_llama.write_gguf(tmp_path / "new.gguf", dtype="Q8_0"), tmp_path / "kept")
    assert sorted(name.split(".gguf")[0] for name in os.listdir(tmp_path / "kept")) == ["new", "stays"]


@pytest.mark.parametrize("where", ["a file", "a read-only file system", "a full disk"])
def test_a_folder_that_takes_nothing_costs_one_line(tmp_path, monkeypatch, caplog, where):
    folder = tmp_path / "kept"
    if where == "a file":
        folder.write_text("in the way")
    elif where == "a read-only file system":
        folder = packed.Path("/proc/octavo")
    else:

        def full(file: int, start: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q8_0")
    with caplog.at_level(logging.WARNING):
        assert same(*both(path, folder))
    [record] = caplog.records
    assert record.message.startswith(f"{folder}: packed weights are not kept: ") and "\n" not in record.message


def test_a_kept_file_serves_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q8_0")
    both(path, tmp_path / "kept")
    plain = os.open

    def reading(name, flags, *rest, **more):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), name
        return plain(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", reading)
    monkeypatch.setattr(packed, "write_block", None)
    (tmp_path / "kept").chmod(0o555)
    assert same(*both(path, tmp_path / "kept"))
    (tmp_path / "kept").chmod(0o755)


def test_a_model_that_cannot_be_packed_leaves_nothing(tmp_path):
    path = tiny_llama.write_gguf(tmp_path / "x.gguf", dtype="Q8_0")
    with open_source(path) as source:
        spec = read_spec(source)
        tensor = source.tensors["blk.1.ffn_down.weight"]
        with path.open("r+b") as file:
            file.seek(tensor.start)
            file.write(b"\xff\x7f")  # NaN as the first scale
        with pytest.raises(ModelError, match=r"blk\.1\.ffn_down\.weight"):
            load_kept(source, spec, tmp_path / "kept")
    assert os.listdir(tmp_path / "kept") == []


def digest(stored: str, dtype: str) -> str:
    """Of a fixed matrix of a stored type, packed."""
    rows, cols = 70, 128
    table, _, group = stored.partition("/")
    coded = [(table, int(group), int(group) + 4)] if group else []
    block, size = next((block, size) for name, block, size in [*TYPES.values(), *coded] if name in (stored, table))
    raw = np.random.default_rng(5).integers(0, 64, (rows, cols // block * size), dtype=np.uint8)  # finite as halves
    if table == "NF4":
        raw[:, -cols:] %= 16
    form = format_of(stored, dtype)
    assert form is not None
    return hashlib.sha256(pack(form, raw, cols).data).hexdigest()[:16]


def test_forms_that_change_need_a_new_number():
    """Fails when packed bytes change: raise FORMS in kernels/weight.py, and note it here with the new digests."""
    found = {f"{stored} {dtype}": digest(stored, dtype) for stored, dtype in DIGESTS}
    assert (forms.FORMS, found) == (
        2,
        {f"{stored} {dtype}": known for (stored, dtype), known in DIGESTS.items()},
    )
