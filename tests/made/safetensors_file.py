"""Writes safetensors files for tests: plain, from the format's description, and independent of octavo.checkpoint.

A tensor is an array (float32, float16, or another plain numpy dtype) or the triple (dtype name, shape, bytes).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}


def entry(value) -> tuple[str, list[int], bytes]:
    if isinstance(value, np.ndarray):
        return NAMES[value.dtype.name], list(value.shape), np.ascontiguousarray(value).tobytes()
    dtype, shape, raw = value
    return dtype, list(shape), bytes(raw)


def file_bytes(tensors: dict, metadata: dict[str, str] | None = None) -> bytes:
    """A whole file."""
    header: dict = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, value in tensors.items():
        dtype, shape, raw = entry(value)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes) -> bytes:
    """A file with any header, right or wrong, padded with spaces to a multiple of 8."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def write(path: Path, tensors: dict, metadata: dict[str, str] | None = None) -> Path:
    path = Path(path)
    path.write_bytes(file_bytes(tensors, metadata))
    return path


def write_shards(folder: Path, shards: list[dict]) -> Path:
    """model-0000i-of-0000n.safetensors and their index."""
    folder = Path(folder)
    where, total = {}, 0
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write(folder / file, tensors)
        where.update(dict.fromkeys(tensors, file))
        total += sum(len(entry(value)[2]) for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
