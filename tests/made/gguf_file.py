"""Writes GGUF files for tests: plain, from the format's description, and independent of octavo.checkpoint.

A value of the metadata is written by its Python type (str, bool, int as u32, float as f32, a list of one of these), or
as the pair (type name, value), such as ("u64", 7) or ("array", ("i8", [1, 2])). A tensor is (type name, shape, bytes),
its shape in row-major order; `encode` makes the bytes, `decode` gives back, slowly, the numbers they stand for.
"""

from __future__ import annotations

import struct
from pathlib import Path

import ggml_blocks
import numpy as np

SCALARS = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "?"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}
STRING, ARRAY = 8, 9
TENSOR_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11}
TENSOR_TYPES |= {"Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39}
TENSOR_TYPES |= {"Q8_K": 15, "F64": 28}


def string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value) -> tuple[str, object]:
    if isinstance(value, tuple):
        return value
    if isinstance(value, list):
        return "array", (_typed(value[0])[0] if value else "u32", [_typed(item)[1] for item in value])
    if isinstance(value, (str, bytes)):
        return "string", value
    if isinstance(value, bool):
        return "bool", value
    return ("f32", value) if isinstance(value, float) else ("u32", value)


def _code(kind: str) -> int:
    return {"string": STRING, "array": ARRAY}.get(kind) or SCALARS[kind][0]


def _body(kind: str, value) -> bytes:
    if kind == "string":
        return string(value)
    if kind == "array":
        item, items = value
        head = struct.pack("<IQ", _code(item), len(items))
        if item in SCALARS:
            return head + struct.pack(f"<{len(items)}{SCALARS[item][1]}", *items)
        return head + b"".join(_body(item, entry) for entry in items)
    return struct.pack("<" + SCALARS[kind][1], value)


def pair(key: str | bytes, value) -> bytes:
    """One entry of the metadata."""
    kind, plain = _typed(value)
    return string(key) + struct.pack("<I", _code(kind)) + _body(kind, plain)


def file_bytes(
    metadata: dict, tensors: dict, *, version: int = 3, alignment: int = 32, magic: bytes = b"GGUF"
) -> bytes:
    """A whole file. tensors: name -> (type name, shape, data)."""
    infos, data = b"", b""
    for name, (kind, shape, raw) in tensors.items():
        dims = tuple(reversed(shape))
        infos += string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        infos += struct.pack("<IQ", TENSOR_TYPES[kind], len(data))
        data += bytes(raw) + b"\0" * (-len(raw) % alignment)
    head = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(pair(key, value) for key, value in metadata.items()) + infos
    return head + b"\0" * (-len(head) % alignment) + data


def write(path: Path, metadata: dict, tensors: dict, **options) -> Path:
    path = Path(path)
    path.write_bytes(file_bytes(metadata, tensors, **options))
    return path


def encode(kind: str, values: np.ndarray) -> bytes:
    """Quantize float32 values; the last dimension is a multiple of 32 for the quantized kinds."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F32":
        return values.tobytes()
    if kind == "F16":
        return values.astype(np.float16).tobytes()
    if kind == "BF16":
        bits = values.view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).tobytes()
    blocks = values.reshape(-1, 32)
    if kind == "Q8_0":
        scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
        codes = np.clip(np.round(_over(blocks, scale)), -127, 127).astype(np.int8)
        return np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], 1).tobytes()
    if kind == "Q4_0":
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
        scale = (extreme / -8).astype(np.float16)
        codes = np.clip(np.round(_over(blocks, scale)) + 8, 0, 15).astype(np.uint8)
        return np.concatenate([scale.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], 1).tobytes()
    if kind == "Q4_1":
        low = blocks.min(1, keepdims=True)
        scale = ((blocks.max(1, keepdims=True) - low) / 15).astype(np.float16)
        codes = np.clip(np.round(_over(blocks - low, scale)), 0, 15).astype(np.uint8)
        parts = [scale.view(np.uint8), low.astype(np.float16).view(np.uint8), codes[:, :16] | codes[:, 16:] << 4]
        return np.concatenate(parts, 1).tobytes()
    return ggml_blocks.encode(kind, values)


def _over(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    wide = scale.astype(np.float32)
    return np.divide(values, wide, out=np.zeros_like(values), where=wide != 0)


def decode(kind: str, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values the bytes stand for, block by block and value by value."""
    if kind == "F32":
        return np.frombuffer(raw, np.float32).reshape(shape).copy()
    if kind == "F16":
        return np.frombuffer(raw, np.float16).reshape(shape).astype(np.float32)
    if kind == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return ggml_blocks.decode(kind, raw, shape)
