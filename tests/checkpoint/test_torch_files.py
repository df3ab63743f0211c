"""pytorch_model.bin: what torch wrote is read as torch reads it; what is damaged or runs code is refused."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.safetensors import read_file
from octavo.checkpoint.source import open_source
from octavo.checkpoint.tensor import Mapped
from octavo.checkpoint.torchfile import read_torch
from octavo.core.errors import ModelError

DATA = Path(__file__).parents[1] / "data"
FILES = ("zip", "legacy", "float8")


def numbers(tensors):
    return {name: (tensor.dtype, tensor.shape, tensor.read().tobytes()) for name, tensor in tensors.items()}


def refused(path, words="x\\.bin: "):
    """Reading fails with one line."""
    with pytest.raises(ModelError, match=words) as caught:
        read_torch(Mapped(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", FILES)
def test_tensors_are_those_that_torch_reads(name):
    found = read_torch(Mapped(DATA / "pickled" / f"{name}.bin"))
    assert numbers(found) == numbers(read_file(Mapped(DATA / "pickled" / f"{name}.safetensors")))


def test_a_table_named_twice_is_stored_once():
    found = read_torch(Mapped(DATA / "pickled" / "zip.bin"))
    assert found["embed.weight"].start == found["head.weight"].start


@pytest.mark.oracle
def test_files_made_anew_hold_the_same(tmp_path):
    subprocess.run([sys.executable, DATA / "make_pickled_fixtures.py", tmp_path], check=True)
    for name in FILES:
        anew = numbers(read_torch(Mapped(tmp_path / f"{name}.bin")))
        assert anew == numbers(read_torch(Mapped(DATA / "pickled" / f"{name}.bin")))


class Storages:
    """What a pickle of torch.save refers to, written by Python's own pickler."""

    def __init__(self):
        self.kept = {}

    def pickled(self, content):
        owner = self

        class Writer(pickle._Pickler):
            def persistent_id(self, value):
                return ("storage", Type(value.dtype), *owner.keep(value)) if isinstance(value, np.ndarray) else None

            dispatch = pickle._Pickler.dispatch.copy()

        for kind in (Type, Call):
            Writer.dispatch[kind] = kind.write
        out = io.BytesIO()
        Writer(out, 2).dump(content)
        return out.getvalue()

    def keep(self, array):
        key = str(len(self.kept))
        self.kept[key] = array.tobytes()
        return key, "cpu", array.size


class Type:
    def __init__(self, dtype):
        self.name = {"float32": "FloatStorage", "float16": "HalfStorage"}[dtype.name]

    def write(self, kind):
        self.write(b"ctorch\n" + kind.name.encode() + b"\n")


class Call:
    """A name of a module, called."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def write(self, call):
        module, _, name = call.name.rpartition(".")
        self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
        self.save(call.arguments)
        self.write(b"R")


def tensor(array, shape=None, stride=None, offset=0):
    shape = array.shape if shape is None else shape
    stride = tuple(step // array.itemsize for step in array.strides) if stride is None else stride
    return Call("torch._utils._rebuild_tensor_v2", array, offset, shape, stride, False, {})


def write(path, content, change=None, **more):
    """A file as torch.save writes it. change(name, data): other bytes for an entry."""
    storages = Storages()
    entries = {"m/data.pkl": storages.pickled(content), "m/byteorder": b"little", "m/version": b"3\n"}
    entries |= {f"m/data/{key}": data for key, data in storages.kept.items()} | more
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data) if change else data)
    return path


MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_folder_of_shards_is_a_model_like_any_other(tmp_path):
    folder = tiny_llama.write_folder(tmp_path / "model")
    with open_source(folder) as source:
        stored = {name: t.read().view(np.float32).reshape(t.shape) for name, t in source.tensors.items()}
    (folder / "model.safetensors").unlink()
    names = list(stored)
    where = {}
    for i in range(2):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        write(folder / file, {name: tensor(stored[name]) for name in names[i::2]})
        where |= dict.fromkeys(names[i::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    with open_source(folder) as source:
        assert len(source.files) == 2
        assert all(
            np.array_equal(t.read().view(np.float32).reshape(t.shape), stored[n]) for n, t in source.tensors.items()
        )
        assert set(source.tensors) == set(stored)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    with pytest.raises(ModelError, match="not a file of this folder"):
        open_source(folder)


@pytest.mark.parametrize(
    "name", ["os.system", "posix.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load"]
)
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path, name):
    marker = tmp_path / "ran"
    content = {"w": tensor(MATRIX), "x": Call(name, f"touch {marker}")}
    refused(write(tmp_path / "x.bin", content), f"names '{name}'; only names of tensors")
    raw = b"\x80\x02c" + name.rpartition(".")[0].encode() + b"\n" + name.rpartition(".")[2].encode() + b"\n."
    (tmp_path / "legacy.bin").write_bytes(raw)
    refused(tmp_path / "legacy.bin", f"names '{name}'")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("code", "opcode"),
    [
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02(cos\nsystem\no.", "names 'os.system'"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02]\x81.", "NEWOBJ"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".", "damaged"),
        (b"\x80\x02r\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02" + b"(" * 10 + b"t" * 11 + b".", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.", "neither text nor a number"),
        (b"\x80\x02)" + b"\x85" * 10**6 + b".", "expected tensors by name"),
        (b"\x80\x02K\x05.", "holds a int, expected tensors by name"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x05s.", "'a' is a int"),
        (b"\x80\x02Nb.", "damaged"),
    ],
)
def test_pickles_of_no_tensors_are_refused(tmp_path, code, opcode):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("m/data.pkl", code)
    refused(tmp_path / "x.bin", opcode)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (tensor(MATRIX, shape=(4, 4)), "reaches beyond"),
        (tensor(MATRIX, offset=1), "reaches beyond"),
        (tensor(MATRIX, stride=(4, 2)), "reaches beyond"),
        (tensor(MATRIX, shape=(1 << 40, 4), stride=(0, 1)), "reaches beyond"),
        (tensor(MATRIX, shape=(1 << 62, 1 << 62), stride=(0, 0)), "reaches beyond"),
        (tensor(MATRIX, shape=(-3, 4)), "no sense"),
        (tensor(MATRIX, shape=(3,)), "no sense"),
        (tensor(MATRIX, shape=(3.0, 4)), "no sense"),
        (Call("torch._utils._rebuild_tensor_v2", 1, 0, (1,), (1,)), "no sense"),
        (Call("torch._utils._rebuild_tensor_v2"), "damaged"),
        (Call("torch._utils._rebuild_parameter", 5), "no tensor"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, made, words):
    refused(write(tmp_path / "x.bin", {"w": made}), words)


def test_storages_must_be_there_and_whole(tmp_path):
    content = {"w": tensor(MATRIX)}
    path = tmp_path / "x.bin"
    refused(
        write(path, content, lambda name, data: data[:-4] if "/data/" in name else data), "44 bytes, not 12 numbers"
    )
    refused(write(path, content, lambda name, data: data + b"xxxx" if "/data/" in name else data), "52 bytes, not 12")
    refused(write(path, content, lambda name, data: b"big" if name == "m/byteorder" else data), "not little-endian")
    refused(write(path, content, **{"n/data.pkl": b"x"}), "2 files data.pkl")
    storages = Storages()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", storages.pickled(content))
    refused(path, "are missing: '0'")


def test_zips_that_are_bombs_or_tricks_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(10**6))
    refused(path, "compressed or encrypted")
    write(path, {"w": tensor(MATRIX)})
    whole = bytearray(path.read_bytes())
    entries = [at for at in range(len(whole)) if whole[at : at + 4] == b"PK\1\2"]
    offsets = [struct.unpack_from("<I", whole, at + 42)[0] for at in entries]
    overlapping = bytearray(whole)
    struct.pack_into("<I", overlapping, entries[1] + 42, offsets[0])
    path.write_bytes(overlapping)
    refused(path, "overlaps|is not as its header says")
    larger = bytearray(whole)
    struct.pack_into("<II", larger, entries[3] + 20, 1 << 30, 1 << 30)
    path.write_bytes(larger)
    refused(path, "not as its header says")
    twice = bytearray(whole)
    twice[entries[1] + 46 : entries[1] + 46 + 11] = b"m/data.pkl\0"
    path.write_bytes(twice)
    refused(path, "m/data|damaged|zip")


def test_the_stride_of_a_dimension_of_one_number_does_not_matter(tmp_path):
    path = write(tmp_path / "x.bin", {"w": tensor(MATRIX, (4, 1, 3), (1, 2**63 - 1, 4))})
    found = read_torch(Mapped(path))["w"].read()
    assert found.view(np.float32).reshape(4, 3).tolist() == MATRIX.T.tolist()


def test_more_dimensions_than_arrays_can_have_are_refused(tmp_path):
    refused(write(tmp_path / "x.bin", {"w": tensor(MATRIX, (1,) * 65 + (2,), (1,) * 65 + (2,))}), "66 dimensions")


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_every_truncation_is_refused(tmp_path, name):
    whole = (DATA / "pickled" / f"{name}.bin").read_bytes()
    path = tmp_path / "x.bin"
    for end in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["zip", "legacy"]), st.data())
def test_damaged_files_are_refused_or_read_within_themselves(tmp_path_factory, name, data):
    whole = bytearray((DATA / "pickled" / f"{name}.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"fuzzed-{os.getpid()}.bin"
    path.write_bytes(whole)
    found, said = {}, "nothing"
    try:
        found = read_torch(Mapped(path))
    except ModelError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    for value in found.values():
        value.read()
