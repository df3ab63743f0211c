"""One quantized module of a folder, as its file spreads it over several tensors, and what config.json declares of it.

Every part is checked, type and shape, before a byte of it is used. Knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.tensor import Bytes, Derived, Tensor, shown
from octavo.core.errors import ModelError
from octavo.quant.plain import PLAIN, float32_values

Stored: TypeAlias = Tensor | Derived  # a tensor of the file; of a pickled one, its numbers may lie apart


@dataclass(frozen=True, slots=True)
class Declared:
    """The quantization settings of a folder. `where`: the file and the field that holds them."""

    where: str
    values: Mapping[str, Any]

    def refused(self, name: str, accepted: str) -> ModelError:
        """The error for what this field holds, or that it is missing."""
        if self.values.get(name) is None:
            return ModelError(f"{self.where}.{name} is missing; expected {accepted}")
        return ModelError(f"{self.where}.{name}: {shown(str(self.values[name]))} is not supported; expected {accepted}")

    def one_of(self, name: str, *accepted: Any, default: Any = None) -> Any:
        """A field that must hold one of these; `default` where it is absent or null, None: it must be there."""
        value = self.values.get(name)
        value = default if value is None else value
        if not any(type(value) is type(choice) and value == choice for choice in accepted):
            raise self.refused(name, " or ".join(map(str, accepted)))
        return value

    def objects(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """A field that holds an object of objects."""
        value = self.values.get(name)
        if not isinstance(value, dict) or not all(isinstance(inner, dict) for inner in value.values()):
            raise self.refused(name, "an object of objects")
        return value


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of a module, by what follows its name: ".qweight", ".scales"."""

    name: str
    stored: Mapping[str, Stored]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All that its tensors consist of."""
        return tuple(part for tensor in self.stored.values() for part in tensor.parts)

    def has(self, part: str) -> bool:
        """Whether it has this part."""
        return part in self.stored

    def part(self, part: str, types: tuple[str, ...], *shape: int) -> Stored:
        """A part of one of these types and of this shape; -1 is any size. Raises ModelError."""
        tensor = self.stored.get(part)
        if tensor is None:
            first = self.parts[0]
            raise ModelError(f"{first.file.path}: {shown(first.name)} is there without {shown(self.name + part)}")
        fits = len(shape) == len(tensor.shape) and all(
            want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True)
        )
        if tensor.dtype not in types or not fits or 0 in tensor.shape:
            sizes = ["any" if size < 0 else str(size) for size in shape]
            raise self.wrong(part, f"expected {' or '.join(types)} of [{', '.join(sizes)}]")
        return tensor

    def wrong(self, part: str, expected: str) -> ModelError:
        """The error for a part that does not fit."""
        tensor = self.stored[part]
        given = f"{tensor.dtype} of {list(tensor.shape)}"
        return ModelError(f"{tensor.file.path}: {shown(tensor.name)} is {given}; {expected}")


def words(tensor: Stored) -> npt.NDArray[np.uint32]:
    """An I32 tensor as unsigned words, of its own shape."""
    return np.asarray(tensor.read().view("<u4"), np.uint32).reshape(tensor.shape)


def raw_bytes(tensor: Stored) -> Bytes:
    """A tensor of one byte a value, of its own shape."""
    return tensor.read().reshape(tensor.shape)


def floats(tensor: Stored) -> npt.NDArray[np.float32]:
    """A tensor of one of PLAIN as float32, of its own shape. Raises ValueError for NaN or infinity, by its name."""
    assert tensor.dtype in PLAIN
    try:
        return float32_values(tensor.read().reshape(1, -1), tensor.dtype).reshape(tensor.shape)
    except ValueError as error:
        raise ModelError(f"{tensor.file.path}: {shown(tensor.name)} {error}") from None


def group_index(module: Module, part: str, cols: int, groups: int) -> npt.NDArray[np.intp]:
    """The group of each input, as a part tells it. [cols]. Raises ModelError for a group that is not there."""
    index = module.part(part, ("I32", "I64"), cols)
    values = index.read().view("<i4" if index.dtype == "I32" else "<i8").astype(np.intp)
    if values.min() < 0 or values.max() >= groups:
        raise module.wrong(part, f"it speaks of a group outside 0..{groups - 1}")
    return values
