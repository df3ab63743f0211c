"""The safetensors reader: files, shards and indexes; damage is one line of error, and never read past."""

import json
import struct

import numpy as np
import pytest
import safetensors_file
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)
C = ("BF16", (2,), b"\x80\x3f\x00\x40")
E4 = ("F8_E4M3", (3,), b"123")


def folder(path, data=None, config="{}"):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(config)
    if data is not None:
        (path / "model.safetensors").write_bytes(data)
    return path


def refused(path, match):
    with pytest.raises(ModelError, match=match) as caught:
        open_source(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


def contents(source):
    return {name: (t.dtype, t.shape, t.read().tobytes()) for name, t in source.tensors.items()}


def stored(tensors):
    entries = {name: safetensors_file.entry(value) for name, value in tensors.items()}
    return {name: (dtype, tuple(shape), raw) for name, (dtype, shape, raw) in entries.items()}


def test_reads_what_was_written(tmp_path):
    tensors = {"a": A, "b": B, "c": C, "d": E4, "none": np.zeros((0, 4), np.float32)}
    safetensors_file.write(folder(tmp_path) / "model.safetensors", tensors, {"format": "pt"})
    (tmp_path / "tokenizer.json").write_text("{}")
    with open_source(tmp_path) as source:
        assert source.kind == "safetensors"
        assert source.metadata == {}
        assert contents(source) == stored(tensors)
        assert source.file("tokenizer.json") == tmp_path / "tokenizer.json"
        assert source.file("generation_config.json") is None
    with pytest.raises(ModelError, match="closed"):
        source.tensors["a"].read()


def test_shards_are_one_source(tmp_path):
    safetensors_file.write_shards(folder(tmp_path), [{"a": A, "c": C}, {"b": B}])
    with open_source(tmp_path) as source:
        assert contents(source) == stored({"a": A, "c": C, "b": B})


def test_the_tensors_agree_whether_sharded_or_not(tmp_path):
    whole = tiny_llama.write_folder(tmp_path / "one")
    parts = tiny_llama.write_folder(tmp_path / "three", shards=3)
    with open_source(whole) as one, open_source(parts) as three:
        assert len(three.files) == 3
        assert contents(one) == contents(three)


def header(entries, data=bytes(64)):
    return safetensors_file.with_header(json.dumps(entries).encode(), data)


def entry(dtype="F32", shape=(16,), begin=0, end=64):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DAMAGE = {
    "empty": (b"", "too short"),
    "seven bytes": (b"1234567", "too short"),
    "lying length": (struct.pack("<Q", 2**63) + b"{}", "the header claims 9223372036854775808 bytes, the file has 2"),
    "length beyond the end": (struct.pack("<Q", 3) + b"{}", "the header claims 3 bytes"),
    "no JSON": (safetensors_file.with_header(b"hello", b""), "not valid JSON"),
    "no UTF-8": (safetensors_file.with_header(b'{"\xff": 1}', b""), "not valid JSON"),
    "a list": (safetensors_file.with_header(b"[]", b""), "no object"),
    "deep JSON": (safetensors_file.with_header(b"[" * 100_000, b""), "not valid JSON"),
    "giant number": (safetensors_file.with_header(b'{"a":' + b"9" * 10_000 + b"}", b""), "not valid JSON"),
    "a tensor twice": (
        safetensors_file.with_header(f'{{"a":{json.dumps(entry())},"a":{json.dumps(entry())}}}'.encode(), bytes(64)),
        "'a' comes twice",
    ),
    "entry that is a number": (header({"a": 3}), "'a' is not an object"),
    "no dtype": (header({"a": {"shape": [16], "data_offsets": [0, 64]}}), "unknown dtype 'None'"),
    "unknown dtype": (header({"a": entry("F33")}), "unknown dtype 'F33'"),
    "dtype that is a list": (header({"a": entry() | {"dtype": [1]}}), "unknown dtype"),
    "negative size": (header({"a": entry(shape=(-16,))}), "has the shape"),
    "size that is true": (header({"a": entry(shape=(True, 16))}), "has the shape"),
    "size that is text": (header({"a": entry(shape=("16",))}), "has the shape"),
    "size that is a fraction": (header({"a": entry(shape=(16.0,))}), "has the shape"),
    "many sizes": (header({"a": entry(shape=(1,) * 40)}), "has the shape"),
    "overflowing shape": (header({"a": entry(shape=(2**62, 2**62))}), "takes 64 bytes, but F32"),
    "shape of another size": (header({"a": entry(shape=(15,))}), "takes 64 bytes, but F32 of shape .15. takes 60"),
    "part of a byte": (header({"a": entry("F4", (127,), 0, 64)}), "takes 63.5"),
    "offsets backwards": (header({"a": entry(begin=64, end=0)}), "data_offsets"),
    "three offsets": (header({"a": entry() | {"data_offsets": [0, 1, 64]}}), "data_offsets"),
    "negative offset": (header({"a": entry(begin=-64, end=0)}), "data_offsets"),
    "beyond the end": (header({"a": entry(shape=(32,), end=128)}), "ends at byte"),
    "overlap": (header({"a": entry(), "b": entry(shape=(8,), begin=32)}), "'b' overlaps another tensor"),
    "gap": (header({"a": entry(shape=(8,), begin=32)}), "'a' follows a gap"),
    "bytes left over": (header({"a": entry(shape=(8,), end=32)}), "the tensors end at byte"),
    "truncated": (safetensors_file.file_bytes({"a": A})[:-1], "ends at byte"),
    "control characters": (header({"a\n\x1b": 3}), r"'a\\n\\x1b'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, damage):
    data, match = DAMAGE[damage]
    refused(folder(tmp_path, data), match)


def index(tmp_path, where, *, raw=None):
    folder(tmp_path)
    safetensors_file.write(tmp_path / "model-1.safetensors", {"a": A})
    safetensors_file.write(tmp_path / "model-2.safetensors", {"b": B})
    text = raw if raw is not None else json.dumps({"weight_map": where})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    return tmp_path


GOOD = {"a": "model-1.safetensors", "b": "model-2.safetensors"}


def test_an_index_reads(tmp_path):
    with open_source(index(tmp_path, GOOD)) as source:
        assert set(source.tensors) == {"a", "b"}


@pytest.mark.parametrize(
    ("where", "match"),
    [
        (GOOD | {"c": "model-3.safetensors"}, "'model-3.safetensors' is missing"),
        (GOOD | {"c": "model-1.safetensors"}, "'c' is not in model-1.safetensors"),
        (GOOD | {"a": "model-2.safetensors"}, "'a' is not in model-2.safetensors"),
        (GOOD | {"b": "../b.safetensors"}, "not a file of this folder"),
        (GOOD | {"b": "/etc/b.safetensors"}, "not a file of this folder"),
        (GOOD | {"b": "..\\b.safetensors"}, "not a file of this folder"),
        (GOOD | {"b": "model-2.bin"}, "not a file of this folder"),
        (GOOD | {"b": 7}, "not a file of this folder"),
        (GOOD | {"b": "x" * 5000 + ".safetensors"}, "is missing"),
        (GOOD | {"b": "\ud800.safetensors"}, "is missing"),
        ({}, "weight_map"),
        ([], "weight_map"),
        (None, "weight_map"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, where, match):
    refused(index(tmp_path, where), match)


@pytest.mark.parametrize("raw", ["", "nul", "[]", '{"weight_map": {}', "{" * 10_000])
def test_an_index_that_is_no_object_is_refused(tmp_path, raw):
    refused(index(tmp_path, None, raw=raw), r"index\.json")


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    index(tmp_path, GOOD)
    safetensors_file.write(tmp_path / "model-2.safetensors", {"b": B, "a": A})
    refused(tmp_path, "'a' is also in model-1.safetensors")


def test_a_truncated_shard_names_itself(tmp_path):
    index(tmp_path, GOOD)
    path = tmp_path / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(tmp_path, r"model-2\.safetensors: damaged")


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_at_random_is_read_or_refused(tmp_path_factory, data):
    path = folder(tmp_path_factory.getbasetemp() / "damaged_safetensors")
    raw = bytearray(safetensors_file.file_bytes({"a": A, "b": B, "c": C}, {"format": "pt"}))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)) if raw else ():
        raw[at] = data.draw(st.integers(0, 255))
    file = path / "model.safetensors"
    file.unlink(missing_ok=True)
    file.write_bytes(raw)
    message = ""
    try:
        with open_source(path) as source:
            for tensor in source.tensors.values():
                assert tensor.start + tensor.nbytes <= len(raw)
                assert len(tensor.read().tobytes()) == tensor.nbytes
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_every_truncation_is_refused(tmp_path):
    data = safetensors_file.file_bytes({"a": A, "b": B})
    for size in range(len(data)):
        path = folder(tmp_path / str(size), data[:size])
        refused(path, "damaged safetensors")
