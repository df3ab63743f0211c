"""pytorch_model.bin: files of torch.save, both kinds, mapped and lazy; their pickles are read by pickled.py.

A zip of stored entries: NAME/data.pkl says what tensors there are, NAME/data/KEY is a storage. Or, before torch 1.6,
five pickles (a magic number, the version, facts of the machine, the tensors, the keys of the storages) and after them
each storage behind its length. Every length, offset and stride is checked before a byte is used. Knows no model.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import Any

from octavo.checkpoint.pickled import BYTES, Storage, Strided, read_pickle
from octavo.checkpoint.safetensors import BITS, DIMS
from octavo.checkpoint.tensor import Bytes, Derived, Mapped, Tensor, shown
from octavo.core.errors import ModelError

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
LOCAL = struct.Struct("<4s22xHH")  # of an entry's header: signature, lengths of name and extra field
ENCRYPTED = 1

Places = dict[str, tuple[int, int]]  # storage: where its bytes begin, and how many there are


def read_torch(file: Mapped) -> dict[str, Tensor | Derived]:
    """The tensors of one mapped file. Raises ModelError, of one line."""
    return _read_zip(file) if file.data[:4] == b"PK\3\4" else _read_legacy(file)


def _read_zip(file: Mapped) -> dict[str, Tensor | Derived]:
    entries = _entries(file)
    found = [name for name in entries if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ModelError(f"{file.path}: a zip with {len(found)} files data.pkl, expected one, as torch.save writes it")
    folder = found[0].removesuffix("data.pkl")
    start, size = entries.get(folder + "byteorder", (0, 0))
    if folder + "byteorder" in entries and file.data[start : start + min(size, 8)] != b"little":
        raise ModelError(f"{file.path}: its numbers are not little-endian")
    start, size = entries[found[0]]
    if size > BYTES:
        raise ModelError(f"{file.path}: {shown(found[0])} takes {size} bytes, expected at most {BYTES}")
    content = read_pickle(io.BytesIO(file.data[start : start + size]), str(file.path))
    places = {name.removeprefix(folder + "data/"): place for name, place in entries.items()}
    return _tensors(file, content, places)


def _entries(file: Mapped) -> Places:
    """Where the bytes of each file of a zip lie: stored, plain, whole, and apart from each other. Raises ModelError."""
    damaged = f"{file.path}: damaged zip"
    try:
        with file.path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            listed, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, struct.error, OSError) as error:
        raise ModelError(f"{damaged}: {shown(str(error))}") from None
    places: Places = {}
    reached = 0
    for entry in sorted(listed, key=lambda entry: entry.header_offset):
        name = shown(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED:
            raise ModelError(f"{file.path}: {name} is compressed or encrypted; torch.save stores files as they are")
        if entry.header_offset < reached or entry.header_offset + LOCAL.size > file.size:
            raise ModelError(f"{damaged}: {name} overlaps another file, or lies outside")
        signature, named, extra = LOCAL.unpack_from(file.data, entry.header_offset)
        start = entry.header_offset + LOCAL.size + named + extra
        reached = start + entry.file_size
        if signature != b"PK\3\4" or entry.compress_size != entry.file_size or reached > min(end, file.size):
            raise ModelError(f"{damaged}: {name} is not as its header says")
        if entry.filename in places:
            raise ModelError(f"{damaged}: {name} is there twice")
        places[entry.filename] = (start, entry.file_size)
    return places


def _read_legacy(file: Mapped) -> dict[str, Tensor | Derived]:
    stream = io.BytesIO(file.data[:BYTES])
    where = str(file.path)
    if file.data[:1] != b"\x80" or read_pickle(stream, where) != MAGIC or read_pickle(stream, where) != VERSION:
        raise ModelError(f"{file.path}: no file of torch.save; expected a zip, or the form of torch before 1.6")
    machine = read_pickle(stream, where)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ModelError(f"{file.path}: its numbers are not little-endian")
    content, keys = read_pickle(stream, where), read_pickle(stream, where)
    storages = {value.storage.key: value.storage for value in _values(file, content).values()}
    places: Places = {}
    at = stream.tell()
    for key in keys if isinstance(keys, list) else [None]:
        if not isinstance(key, str) or key not in storages or key in places or at + 8 > file.size:
            raise ModelError(f"{file.path}: damaged: its storages do not belong to its tensors")
        numel = struct.unpack_from("<q", file.data, at)[0]
        size = numel * BITS[storages[key].dtype or "U8"] // 8
        if numel < 0 or at + 8 + size > file.size:
            raise ModelError(f"{file.path}: damaged: a storage of {numel} numbers ends behind the file")
        places[key] = (at + 8, size)
        at += 8 + size
    return _tensors(file, content, places)


def _values(file: Mapped, content: Any) -> dict[str, Strided]:
    """What was saved: tensors by name."""
    if not isinstance(content, dict):
        raise ModelError(f"{file.path}: holds a {type(content).__name__}, expected tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Strided):
            kind = type(value).__name__
            raise ModelError(f"{file.path}: {shown(str(name))} is a {kind}, expected tensors by name alone")
    return content


def _tensors(file: Mapped, content: Any, places: Places) -> dict[str, Tensor | Derived]:
    out: dict[str, Tensor | Derived] = {}
    for name, value in _values(file, content).items():
        start, size = _place(file, name, value.storage, places)
        if len(value.shape) > DIMS:
            raise ModelError(f"{file.path}: {shown(name)} has {len(value.shape)} dimensions, expected at most {DIMS}")
        item = BITS[value.dtype] // 8
        last = value.offset + sum((n - 1) * step for n, step in zip(value.shape, value.stride, strict=True))
        numel = _product(value.shape)
        if numel and (last >= size // item or numel > size // item):
            raise ModelError(f"{file.path}: {shown(name)} reaches beyond its storage of {size} bytes")
        whole = Tensor(
            name, value.dtype, value.shape, numel * item, file, start + (value.offset * item if numel else 0)
        )
        out[name] = whole if numel <= 1 or _is_contiguous(value) else _gathered(whole, value, start, size)
    return out


def _place(file: Mapped, name: str, storage: Storage, places: Places) -> tuple[int, int]:
    """Where a storage lies: all of it there."""
    if storage.key not in places:
        raise ModelError(f"{file.path}: the numbers of {shown(name)} are missing: {shown(storage.key)}")
    start, size = places[storage.key]
    if size != storage.numel * BITS[storage.dtype or "U8"] // 8:
        raise ModelError(f"{file.path}: the numbers of {shown(name)} take {size} bytes, not {storage.numel} numbers")
    return start, size


def _is_contiguous(value: Strided) -> bool:
    """Whether the numbers lie side by side, in order."""
    step = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _gathered(whole: Tensor, value: Strided, start: int, size: int) -> Derived:
    """A tensor whose numbers lie apart, or in another order: transposed, for one."""
    item = BITS[value.dtype] // 8
    storage = Tensor(whole.name, value.dtype, (size // item,), size, whole.file, start)

    def build() -> Bytes:
        import numpy as np

        numbers = storage.read()[: size // item * item].reshape(-1, item)[value.offset :]
        # A dimension of one number takes no step: the stride it is given may be anything, beyond 64 bits in bytes.
        steps = [step * item if n > 1 else 0 for n, step in zip(value.shape, value.stride, strict=True)]
        view = np.lib.stride_tricks.as_strided(numbers, (*value.shape, item), (*steps, 1))
        return np.ascontiguousarray(view).reshape(-1)

    return Derived(whole.name, value.dtype, value.shape, (storage,), build)


def _product(sizes: Iterable[int]) -> int:
    out = 1
    for size in sizes:
        out *= size
    return out
