"""GGUF files, versions 2 and 3, little-endian: metadata checked at once, tensors mapped and lazy. No model.

Every count, length, dimension and offset is checked against the bytes that are there before anything is allocated or
read for it, so a damaged file costs one line of error. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from octavo.checkpoint.tensor import Mapped, Tensor, shown
from octavo.core.errors import ModelError

# ggml types: number -> name, values in a block, bytes of a block (ggml.h, ggml-common.h).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
# Metadata types: number -> struct format. 8 is a string, 9 an array.
SCALARS: dict[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<B",
    10: "<Q",
    11: "<q",
    12: "<d",
}
BOOL, STRING, ARRAY = 7, 8, 9
HEADER_BYTES = 1 << 28  # most bytes of magic, metadata and tensor table: 16 times the largest seen
ITEMS = 1 << 24  # most entries of one array: 64 times the largest vocabulary
NAME_BYTES = 1 << 10  # longest key or tensor name
DIMS = 4
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def read_gguf(file: Mapped) -> tuple[Metadata, dict[str, Tensor]]:
    """Metadata and tensors of a mapped GGUF file. Raises ModelError."""
    cursor = _Cursor(file)
    tensor_count, key_count = _read_head(cursor)
    metadata = Metadata()
    for i in range(key_count):
        key = cursor.text(f"key {i}", NAME_BYTES)
        if key in metadata:
            raise cursor.fault(f"the key {shown(key)} comes twice")
        metadata.add(key, _read_value(cursor, shown(key)))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise cursor.fault(f"general.alignment is {alignment!r}, expected a power of two from 8 to 65536")
    rows = [_read_info(cursor, i) for i in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape, nbytes, offset in rows:
        if name in tensors:
            raise cursor.fault(f"the tensor {shown(name)} comes twice")
        if offset % alignment:
            raise cursor.fault(f"tensor {shown(name)} starts at {offset}, not a multiple of {alignment}")
        tensors[name] = Tensor(name, dtype, shape, nbytes, file, start + offset)
    _check_places(cursor, tensors)
    return metadata, tensors


class _Cursor:
    """Reads forward through the header; nothing beyond the file's end or HEADER_BYTES."""

    def __init__(self, file: Mapped) -> None:
        self.path = file.path
        self.size = file.size
        self.at = 0
        self.end = min(file.size, HEADER_BYTES)
        self.data = file.data

    def fault(self, what: str) -> ModelError:
        """An error of this file, at this place."""
        return ModelError(f"{self.path}: damaged or unsupported GGUF: {what} (at byte {self.at})")

    def claim(self, size: int, what: str) -> int:
        """Step over `size` bytes that must be there; give where they start."""
        at = self.at
        if size > self.end - at:
            limit = "the file ends" if self.end == self.size else "the header's limit is"
            raise self.fault(f"{what} needs {size} bytes, but {limit} at {self.end}")
        self.at = at + size
        return at

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer."""
        return int(_U32.unpack_from(self.data, self.claim(4, what))[0])

    def u64(self, what: str) -> int:
        """An unsigned 64-bit integer."""
        return int(_U64.unpack_from(self.data, self.claim(8, what))[0])

    def text(self, what: str, limit: int = HEADER_BYTES) -> str:
        """A string in UTF-8 of at most `limit` bytes."""
        size = self.u64(f"the length of {what}")
        if size > limit:
            raise self.fault(f"{what} is {size} bytes long, more than {limit}")
        at = self.claim(size, what)
        try:
            return self.data[at : at + size].decode()
        except UnicodeDecodeError:
            raise self.fault(f"{what} is not UTF-8") from None

    def texts(self, count: int, what: str) -> Texts:
        """Step over many strings that must be there; they are decoded when asked for."""
        data, at, end, unpack = self.data, self.at, self.end, _U64.unpack_from
        start = at
        for i in range(count):
            stop = at + 8 + unpack(data, at)[0] if at + 8 <= end else end + 1
            if stop > end:
                self.at = at
                raise self.fault(f"entry {i} of {what} reaches beyond the end, {end}")
            at = stop
        self.at = at
        return Texts(self, start, count, what)


@dataclass(frozen=True, slots=True)
class Texts:
    """An array of strings that lie in the header from `start`."""

    cursor: _Cursor
    start: int
    count: int
    what: str

    def decoded(self) -> list[str]:
        """One pass, fast enough for a vocabulary of 256k. Raises ModelError for what is not UTF-8."""
        data, at, unpack = self.cursor.data, self.start, _U64.unpack_from
        out: list[str] = []
        append = out.append
        try:
            for _ in range(self.count):
                stop = at + 8 + unpack(data, at)[0]
                append(data[at + 8 : stop].decode())
                at = stop
        except UnicodeDecodeError:
            self.cursor.at = at
            raise self.cursor.fault(f"entry {len(out)} of {self.what} is not UTF-8") from None
        return out


class Metadata(Mapping[str, Any]):
    """Values by key. Arrays are lists; those of strings, the bulk of a file's header, are decoded when asked for.

    Asking raises ModelError for strings that are not UTF-8.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def add(self, key: str, value: Any) -> None:
        """Another key."""
        self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, Texts):
            value = self._values[key] = value.decoded()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _read_head(cursor: _Cursor) -> tuple[int, int]:
    """Magic, version, and the two counts: tensors, keys."""
    magic = cursor.data[:4]
    if magic != b"GGUF":
        raise ModelError(f"{cursor.path}: not a GGUF file: it begins with {magic!r}")
    cursor.at = 4
    version = cursor.u32("the version")
    if version and version & 0xFFFF == 0:
        raise cursor.fault("a big-endian file; only little-endian ones are read")
    if version not in (2, 3):
        raise cursor.fault(f"version {version}; 2 and 3 are read")
    counts = cursor.u64("the tensor count"), cursor.u64("the key count")
    for count, smallest, what in zip(counts, (24, 13), ("tensors", "keys"), strict=True):
        if count > (cursor.end - cursor.at) // smallest:
            raise cursor.fault(f"{count} {what} are announced, more than the file has room for")
    return counts


def _read_value(cursor: _Cursor, key: str) -> Any:
    """The value of one key."""
    kind = cursor.u32(f"the type of {key}")
    if kind == STRING:
        return cursor.text(f"the value of {key}")
    if kind == ARRAY:
        return _read_array(cursor, key)
    if kind not in SCALARS:
        raise cursor.fault(f"{key} has the unknown type {kind}")
    letter = SCALARS[kind]
    value = struct.unpack_from(letter, cursor.data, cursor.claim(struct.calcsize(letter), f"the value of {key}"))[0]
    if kind == BOOL:
        if value > 1:
            raise cursor.fault(f"{key} is a boolean of value {value}")
        return bool(value)
    return value


def _read_array(cursor: _Cursor, key: str) -> list[Any] | Texts:
    """An array of scalars, or of strings."""
    kind, count = cursor.u32(f"the entry type of {key}"), cursor.u64(f"the entry count of {key}")
    if kind == ARRAY:
        raise cursor.fault(f"{key} is an array of arrays; none is known to use them")
    if kind != STRING and kind not in SCALARS:
        raise cursor.fault(f"{key} is an array of the unknown type {kind}")
    smallest = 8 if kind == STRING else struct.calcsize(SCALARS[kind])
    if count > ITEMS or count > (cursor.end - cursor.at) // smallest:
        raise cursor.fault(f"{key} announces {count} entries, more than the file has room for or than {ITEMS}")
    if kind == STRING:
        return cursor.texts(count, key)
    at = cursor.claim(count * smallest, key)
    values = struct.unpack_from(f"<{count}{SCALARS[kind][1:]}", cursor.data, at)
    if kind != BOOL:
        return list(values)
    if count and max(values) > 1:
        raise cursor.fault(f"{key} holds a boolean of value {max(values)}")
    return [bool(value) for value in values]


def _read_info(cursor: _Cursor, i: int) -> tuple[str, str, tuple[int, ...], int, int]:
    """One row of the tensor table: name, type, shape, bytes, offset into the data."""
    name = cursor.text(f"the name of tensor {i}", NAME_BYTES)
    what = f"tensor {shown(name)}"
    rank = cursor.u32(f"the rank of {what}")
    if not 1 <= rank <= DIMS:
        raise cursor.fault(f"{what} has {rank} dimensions; 1 to {DIMS} are possible")
    dims = [cursor.u64(f"a dimension of {what}") for _ in range(rank)]
    kind, offset = cursor.u32(f"the type of {what}"), cursor.u64(f"the offset of {what}")
    if kind not in TYPES:
        raise cursor.fault(f"{what} has the unknown type {kind}")
    dtype, block, block_bytes = TYPES[kind]
    if 0 in dims or dims[0] % block:
        raise cursor.fault(f"{what} of type {dtype} has the dimensions {dims}; the first must be a multiple of {block}")
    values = 1
    for size in dims:
        values *= size
    return name, dtype, tuple(reversed(dims)), values // block * block_bytes, offset


def _check_places(cursor: _Cursor, tensors: dict[str, Tensor]) -> None:
    """Every tensor inside the file, no two over each other."""
    before: Tensor | None = None
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start + tensor.nbytes > cursor.size:
            raise ModelError(
                f"{cursor.path}: truncated GGUF: tensor {shown(tensor.name)} takes the bytes {tensor.start} to "
                f"{tensor.start + tensor.nbytes}, but the file ends at {cursor.size}"
            )
        if before and before.start + before.nbytes > tensor.start:
            raise cursor.fault(f"the tensors {shown(before.name)} and {shown(tensor.name)} overlap")
        before = tensor
