"""The GGUF reader: what it reads, and that no damage gets past it or costs more than one line of error."""

import re
import struct

import gguf_file
import numpy as np
import pytest
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.gguf import TYPES
from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError

VALUES = np.arange(64, dtype=np.float32).reshape(2, 32)
TENSORS = {
    "a": ("F32", (2, 32), VALUES.tobytes()),
    "b": ("Q8_0", (1, 32), gguf_file.encode("Q8_0", VALUES[1:])),
    "c": ("F16", (3, 2, 4), bytes(48)),
}
METADATA = {
    "s": "käse\n",
    "t": True,
    "u": 7,
    "f": 0.5,
    "i8": ("i8", -3),
    "u64": ("u64", 2**63),
    "f64": ("f64", 1e300),
    "strings": ["a", "", "ö"],
    "ints": ("array", ("i32", [-1, 2])),
    "floats": ("array", ("f32", [0.5, 2.0])),
    "flags": [True, False],
    "none": [],
}


def refused(path, data, match):
    """Opening these bytes fails with one line that names the file and matches."""
    path.write_bytes(data)
    with pytest.raises(ModelError, match=match) as caught:
        dict(open_source(path).metadata)
    text = str(caught.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    assert len(text) < 600


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 64])
def test_reads_what_was_written(tmp_path, version, alignment):
    metadata = METADATA | {"general.alignment": alignment}
    path = gguf_file.write(tmp_path / "x.gguf", metadata, TENSORS, version=version, alignment=alignment)
    with open_source(path) as source:
        assert source.kind == "gguf"
        assert source.config == {}
        assert source.file("tokenizer.json") is None
        plain = {key: value[1] if isinstance(value, tuple) else value for key, value in metadata.items()}
        plain |= {"ints": [-1, 2], "floats": [0.5, 2.0]}
        assert dict(source.metadata) == plain
        assert type(source.metadata["t"]) is bool
        assert source.metadata["flags"] == [True, False]
        assert list(source.tensors) == list(TENSORS)
        for name, (kind, shape, data) in TENSORS.items():
            tensor = source.tensors[name]
            assert (tensor.dtype, tensor.shape, tensor.nbytes) == (kind, shape, len(data))
            assert tensor.read().tobytes() == data
            assert not tensor.read().flags.writeable


def test_arrays_outlive_the_source_and_reading_after_close_is_an_error(tmp_path):
    source = open_source(gguf_file.write(tmp_path / "x.gguf", {}, TENSORS))
    kept = source.tensors["a"].read()
    source.close()
    source.close()
    assert kept.tobytes() == TENSORS["a"][2]
    with pytest.raises(ModelError, match="closed"):
        source.tensors["a"].read()


def test_a_file_without_tensors_or_keys_is_read(tmp_path):
    with open_source(gguf_file.write(tmp_path / "x.gguf", {}, {})) as source:
        assert not source.tensors
        assert not source.metadata


def test_every_known_type_has_a_size_to_check(tmp_path):
    assert len({name for name, _, _ in TYPES.values()}) == len(TYPES)
    for number, (name, block, size) in TYPES.items():
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
        info = gguf_file.string("w") + struct.pack("<IQQIQ", 2, block, 2, number, 0)
        data = head + info
        data += b"\0" * (-len(data) % 32)
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data + bytes(2 * size))
        with open_source(path) as source:
            assert (source.tensors["w"].dtype, source.tensors["w"].nbytes) == (name, 2 * size)
        refused(path, data + bytes(2 * size - 1), "truncated")


def head(tensors=0, keys=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def info(name=b"w", dims=(32,), kind=0, offset=0, rank=None):
    rank = len(dims) if rank is None else rank
    return gguf_file.string(name) + struct.pack(f"<I{len(dims)}QIQ", rank, *dims, kind, offset)


def key(name, kind, body):
    return gguf_file.string(name) + struct.pack("<I", kind) + body


PAD = bytes(4096)
DAMAGE = {
    "empty": (b"", "not a GGUF file"),
    "another file": (b"PK\x03\x04" + PAD, "not a GGUF file"),
    "only the magic": (b"GGUF", "the version needs 4 bytes, but the file ends at 4"),
    "version 1": (head(version=1) + PAD, "version 1; 2 and 3"),
    "version 9": (head(version=9) + PAD, "version 9"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + PAD, "big-endian"),
    "absurd tensor count": (head(2**63, 0) + PAD, "9223372036854775808 tensors are announced"),
    "absurd key count": (head(0, 2**64 - 1) + PAD, "keys are announced"),
    "key that is not UTF-8": (head(0, 1) + key(b"\xff\xfe", 4, bytes(4)) + PAD, "key 0 is not UTF-8"),
    "long key": (head(0, 1) + key(b"k" * 2000, 4, bytes(4)) + PAD, "2000 bytes long"),
    "absurd string": (head(0, 1) + key(b"k", 8, struct.pack("<Q", 2**62)) + PAD, "'k' is 4611686018427387904 bytes"),
    "string beyond the end": (head(0, 1) + key(b"k", 8, struct.pack("<Q", 9000)) + PAD, "needs 9000 bytes, but the fi"),
    "value not UTF-8": (head(0, 1) + key(b"k", 8, gguf_file.string(b"\xc3")) + PAD, "the value of 'k' is not UTF-8"),
    "unknown value type": (head(0, 1) + key(b"k", 13, bytes(4)) + PAD, "unknown type 13"),
    "boolean of value 2": (head(0, 1) + key(b"k", 7, b"\2") + PAD, "a boolean of value 2"),
    "booleans of value 2": (
        head(0, 1) + key(b"k", 9, struct.pack("<IQ", 7, 2) + b"\1\2") + PAD,
        "a boolean of value 2",
    ),
    "nested arrays": (head(0, 1) + key(b"k", 9, struct.pack("<IQ", 9, 1) * 99) + PAD, "array of arrays"),
    "array of nothing known": (head(0, 1) + key(b"k", 9, struct.pack("<IQ", 77, 1)) + PAD, "unknown type 77"),
    "absurd array": (head(0, 1) + key(b"k", 9, struct.pack("<IQ", 6, 2**62)) + PAD, "4611686018427387904 entries"),
    "absurd string array": (head(0, 1) + key(b"k", 9, struct.pack("<IQ", 8, 600)) + PAD, "600 entries"),
    "array entry too long": (
        head(0, 1) + key(b"k", 9, struct.pack("<IQQ", 8, 2, 2**64 - 1)) + PAD,
        "entry 0 of 'k' reaches beyond the end",
    ),
    "array entry not UTF-8": (
        head(0, 1) + key(b"k", 9, struct.pack("<IQ", 8, 2) + gguf_file.string(b"a") + gguf_file.string(b"\xff")) + PAD,
        "entry 1 of 'k' is not UTF-8",
    ),
    "a key twice": (head(0, 2) + key(b"k", 0, b"1") * 2 + PAD, "'k' comes twice"),
    "alignment 0": (head(0, 1) + gguf_file.pair("general.alignment", 0) + PAD, "general.alignment is 0"),
    "alignment 33": (head(0, 1) + gguf_file.pair("general.alignment", 33) + PAD, "power of two"),
    "alignment of text": (head(0, 1) + gguf_file.pair("general.alignment", "32") + PAD, "power of two"),
    "no dimensions": (head(1) + info(dims=()) + PAD, "0 dimensions"),
    "many dimensions": (head(1) + info(dims=(1,) * 5) + PAD, "5 dimensions"),
    "absurd rank": (head(1) + info(rank=2**32 - 1) + PAD, "4294967295 dimensions"),
    "dimension 0": (head(1) + info(dims=(0, 4)) + PAD, "dimensions"),
    "part of a block": (head(1) + info(dims=(33,), kind=8) + PAD, "multiple of 32"),
    "unknown type": (head(1) + info(kind=4) + PAD, "tensor 'w' has the unknown type 4"),
    "overflowing size": (head(1) + info(dims=(2**63, 2**63, 2**63, 2**63)) + PAD, "truncated"),
    "size that wraps to 0": (head(1) + info(dims=(2**32, 2**32)) + PAD, "truncated"),
    "offset beyond the end": (head(1) + info(offset=2**40) + PAD, "truncated"),
    "offset that wraps": (head(1) + info(offset=2**64 - 32) + PAD, "truncated"),
    "crooked offset": (head(1) + info(offset=8) + PAD, "starts at 8, not a multiple of 32"),
    "overlap": (head(2) + info(b"v", (64,)) + info(b"w", (8,), offset=224) + PAD, "'v' and 'w' overlap"),
    "a tensor twice": (head(2) + info() + info(offset=128) + PAD, "'w' comes twice"),
    "a name of control characters": (
        head(1) + info(b"a\r\n\x1b[2J\xc2\x85", (0,)) + PAD,
        re.escape(r"'a\r\n\x1b[2J\x85'"),
    ),
    "truncated table": (head(1) + info()[:-3], "needs 8 bytes"),
    "truncated data": (gguf_file.file_bytes({}, {"a": ("F32", (32,), bytes(128))})[:-1], "truncated GGUF: tensor 'a'"),
    "one of several": (gguf_file.file_bytes({"split.count": ("u16", 3)}, {}), "says split.count 3; a part is named"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, damage):
    refused(tmp_path / "x.gguf", *DAMAGE[damage])


def test_a_giant_sparse_file_of_nothing_is_refused_at_once(tmp_path):
    """Counts are checked against limits too, not only against what a file full of holes has room for."""
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(head(0, 1) + key(b"k", 9, struct.pack("<IQ", 0, 2**38)))
        file.truncate(2**40)
    with pytest.raises(ModelError, match="274877906944 entries"):
        open_source(path)
    with path.open("r+b") as file:
        file.write(head(0, 1) + key(b"k", 8, struct.pack("<Q", 2**38)))
    with pytest.raises(ModelError, match="274877906944 bytes long"):
        open_source(path)


def everything(path):
    """Open, touch every byte that the reader offers, and check that it lies in the file."""
    size = path.stat().st_size
    with open_source(path) as source:
        dict(source.metadata)
        for tensor in source.tensors.values():
            assert 0 <= tensor.start <= tensor.start + tensor.nbytes <= size
            assert tensor.read().shape == (tensor.nbytes,)
            int(tensor.read().sum())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    data = tiny_llama.write_gguf(folder / "x.gguf", layers=1, vocab=32, inner=64, bias=True).read_bytes()
    strings = gguf_file.file_bytes(METADATA, TENSORS)
    return folder, [data, strings]


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_at_random_is_read_or_refused(small, data):
    folder, files = small
    raw = bytearray(data.draw(st.sampled_from(files)))
    size = len(raw)
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, size - 1))]
    reach = min(len(raw), 2200)  # mostly the header, where it hurts
    for at in data.draw(st.lists(st.integers(0, reach - 1), max_size=4)) if reach else ():
        raw[at] = data.draw(st.integers(0, 255))
    path = folder / "damaged.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(raw)
    message = ""
    try:
        everything(path)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_every_truncation_is_refused(small):
    folder, (_, data) = small
    padding = -len(TENSORS["c"][2]) % 32
    for size in range(len(data) - padding):
        path = folder / "short.gguf"
        path.unlink(missing_ok=True)
        path.write_bytes(data[:size])
        with pytest.raises(ModelError):
            open_source(path)


def test_a_large_vocabulary_is_read_whole(tmp_path):
    words = [f"Ġword{i}" for i in range(100_000)]
    path = gguf_file.write(tmp_path / "x.gguf", {"tokens": words, "kinds": ("array", ("i32", [1] * 100_000))}, {})
    with open_source(path) as source:
        assert source.metadata["tokens"] == words
