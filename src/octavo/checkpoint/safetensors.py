"""safetensors files and the folders they lie in: one file, or shards through an index; tensors mapped and lazy.

Every length, shape and offset is checked before anything is allocated or read for it; the tensors of a file must cover
its data exactly, so a truncated or padded file is found. Format: github.com/huggingface/safetensors. Knows no model.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from octavo.checkpoint.tensor import Derived, Mapped, Tensor, Tensors, shown
from octavo.core.errors import ModelError

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
HEADER_BYTES = 100_000_000  # the format's own limit
JSON_BYTES = 100_000_000  # largest config or index read
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DIMS = 16


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file beside the weights. Raises ModelError."""
    try:
        with path.open("rb") as file:
            raw = file.read(JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > JSON_BYTES:
        raise ModelError(f"{path}: larger than {JSON_BYTES} bytes")
    return _object(raw, f"{path}: not valid JSON")


def read_tensors(folder: Path) -> tuple[list[Mapped], Tensors]:
    """The tensors of a folder's model.safetensors, or of the shards its index names. Raises ModelError."""
    return read_shards(folder, SINGLE, INDEX, read_file)


def read_shards(
    folder: Path, single: str, index: str, read: Callable[[Mapped], Tensors]
) -> tuple[list[Mapped], Tensors]:
    """The tensors of one file, or of the shards, of the same ending, that an index names. Raises ModelError."""
    if (folder / single).exists():
        paths, where = [folder / single], {}
    else:
        where = _read_index(folder / index, Path(single).suffix)
        paths = [folder / name for name in sorted(set(where.values()))]
    files: list[Mapped] = []
    tensors: dict[str, Tensor | Derived] = {}
    try:
        for path in paths:
            files.append(Mapped(path))
            for name, tensor in read(files[-1]).items():
                if name in tensors:
                    raise ModelError(f"{path}: {shown(name)} is also in {tensors[name].file.path.name}")
                tensors[name] = tensor
        for name, file in where.items():
            if name not in tensors or tensors[name].file.path.name != file:
                raise ModelError(f"{folder / index}: {shown(name)} is not in {file}")
    except ModelError:
        for opened in files:
            opened.close()
        raise
    return files, tensors


def read_file(file: Mapped) -> dict[str, Tensor]:
    """The tensors of one mapped file. Raises ModelError."""
    damaged = f"{file.path}: damaged safetensors file"
    if file.size < 8:
        raise ModelError(f"{damaged}: {file.size} bytes long, too short for a header")
    length = struct.unpack_from("<Q", file.data)[0]
    if length > HEADER_BYTES or length > file.size - 8:
        raise ModelError(f"{damaged}: the header claims {length} bytes, the file has {file.size - 8} after its length")
    header = _object(file.data[8 : 8 + length], f"{damaged}: the header is not valid JSON")
    header.pop("__metadata__", None)
    tensors = {name: _read_entry(file, name, entry, 8 + length) for name, entry in header.items()}
    reached = 8 + length
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != reached:
            wrong = "overlaps another tensor" if tensor.start < reached else "follows a gap"
            raise ModelError(f"{damaged}: {shown(tensor.name)} {wrong}: it starts at {tensor.start}, not {reached}")
        reached += tensor.nbytes
        if reached > file.size:
            raise ModelError(f"{damaged}: {shown(tensor.name)} ends at byte {reached}, the file at {file.size}")
    if reached != file.size:
        raise ModelError(f"{damaged}: the tensors end at byte {reached}, the file at {file.size}")
    return tensors


def _read_entry(file: Mapped, name: str, entry: Any, data: int) -> Tensor:
    """One entry of a header whose tensors' bytes begin at `data`."""
    damaged = f"{file.path}: damaged safetensors file: {shown(name)}"
    if not isinstance(entry, dict):
        raise ModelError(f"{damaged} is not an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ModelError(f"{damaged} has the unknown dtype {shown(str(dtype))}")
    if shape is None or len(shape) > DIMS:
        raise ModelError(f"{damaged} has the shape {shown(str(entry.get('shape')))}, expected at most {DIMS} sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        given = shown(str(entry.get("data_offsets")))
        raise ModelError(f"{damaged} has the data_offsets {given}, expected a beginning and an end")
    bits = BITS[dtype]
    for size in shape:
        bits *= size
    nbytes = offsets[1] - offsets[0]
    if nbytes * 8 != bits:
        raise ModelError(f"{damaged} takes {nbytes} bytes, but {dtype} of shape {shape} takes {bits / 8:g}")
    return Tensor(name, dtype, tuple(shape), nbytes, file, data + offsets[0])


def _sizes(value: Any) -> list[int] | None:
    """The value if it is a list of integers from 0 to 2^63, otherwise None."""
    right = isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)
    return value if right else None


def _read_index(path: Path, ending: str) -> dict[str, str]:
    """Which shard each tensor is in. Shards lie beside the index; a name that leads elsewhere is refused."""
    where = read_json(path).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ModelError(f"{path}: weight_map is not an object of tensor names and file names")
    for name, file in where.items():
        if not isinstance(file, str) or not file.endswith(ending) or set(file) & set("/\\\0"):
            raise ModelError(f"{path}: {shown(name)} is said to be in {shown(str(file))}, not a file of this folder")
        if not os.path.isfile(path.parent / file):
            raise ModelError(f"{path}: {shown(file)} is missing from the folder")
    return where


def _object(raw: bytes, fault: str) -> dict[str, Any]:
    """A JSON object without repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"{shown(next(key for key in out if keys.count(key) > 1))} comes twice")
        return out

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{fault}: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{fault}: it is no object")
    return value
