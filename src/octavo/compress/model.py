"""A plain model as its folder stores it: which stored tensors become codes, and the program that calibration walks.

The program's matrices are empty: a walk brings each for the operation that reads it, so memory holds one operation's at
a time. Knows no codes and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Derived, Tensor, shown
from octavo.core.errors import ModelError
from octavo.kernels.weight import Layout, Weight
from octavo.models.entry import Entry, picked, unit_rows
from octavo.models.load import Weights, packed_parts, plan, views
from octavo.models.lower import lower
from octavo.models.registry import architecture_of, read_spec
from octavo.models.spec import ModelSpec
from octavo.program.ops import Attend, Floats, Op, Program, Qkv
from octavo.quant.folder import settings_of
from octavo.quant.plain import PLAIN, float32_values


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """An open folder of plain weights. `entries` by our names; `program` keeps keys and values of one layer only."""

    source: Source
    spec: ModelSpec
    entries: dict[str, Entry]
    program: Program
    keys: dict[int, str]  # our name of a matrix, by the id of its Weight

    def linear(self) -> list[Tensor | Derived]:
        """The stored matrices of the layers, in their order."""
        found = {e.tensor.name: e for e in self.entries.values() if e.key.startswith("layers.") and e.form is not None}
        return [self.tensor(name) for name in found]

    def exact(self) -> set[str]:
        """The stored matrices that experts are chosen by, which stay as they are."""
        return {entry.tensor.name for entry in self.entries.values() if entry.exact}

    def tensor(self, name: str) -> Tensor:
        """A stored tensor, as it lies in the folder: plain folders have no others."""
        tensor = self.source.tensors[name]
        assert isinstance(tensor, Tensor)
        return tensor

    def stored(self, name: str) -> Floats:
        """A stored tensor. float32. Raises ModelError for NaN or infinity."""
        tensor = self.tensor(name)
        return self._numbers(tensor, np.arange(tensor.shape[0])).reshape(tensor.shape)

    def part(self, key: str, stored: Floats) -> Floats:
        """Our matrix, out of the values of the stored one that it lies in."""
        return picked(stored, self.entries[key].rows)

    def rows(self, key: str, wanted: npt.NDArray[np.integer]) -> Floats:
        """Some rows of a matrix of ours that is stored as it is: of the embedding or the head."""
        entry = self.entries[key]
        at = wanted.astype(np.int64)
        values = self._numbers(self.tensor(entry.tensor.name), at if entry.rows is None else entry.rows[at])
        return unit_rows(values) if entry.unit else values

    def heads(self) -> list[str]:
        """What the module that projects to the vocabulary may be called, whether or not it is stored.

        Engines call it lm_head even where the file has another name.
        """
        names = architecture_of(self.source).tensors["safetensors"]
        stored = names.written("head", self.source.tensors) if "head" in names.names else "lm_head.weight"
        return list(dict.fromkeys(["lm_head", stored.removesuffix(".weight")]))

    @property
    def head(self) -> str:
        """Our name of the head's matrix."""
        return "embed" if self.spec.tied else "head"

    def _numbers(self, tensor: Tensor | Derived, rows: npt.NDArray[np.int64]) -> Floats:
        raw = tensor.read().reshape(tensor.shape[0], -1)
        try:
            return float32_values(np.ascontiguousarray(raw[rows]), tensor.dtype)
        except ValueError as error:
            raise ModelError(f"{tensor.file.path}: tensor {shown(tensor.name)} {error}") from None
        finally:
            tensor.release()


def open_plain(source: Source) -> Plain:
    """Raises ModelError for what cannot be quantized into a folder."""
    if source.kind != "safetensors":
        raise ModelError(f"{source.path}: a GGUF file; give a folder of safetensors with its config.json")
    if settings_of(source) is not None:
        raise ModelError(f"{source.path}: is quantized already; give the folder that it was made from")
    spec = read_spec(source)
    if spec.pooler is not None:
        what = "scores of labels" if spec.pooler.labels else "vectors"
        raise ModelError(f"{source.path}: gives {what}, not text; load it with --quantize instead")
    if len(spec.attns) < len(spec.layers):
        raise ModelError(f"{source.path}: has convolutions, which load in codes with --quantize instead")
    if any(attn.latent for attn in spec.attns):
        raise ModelError(f"{source.path}: has latent attention, which loads in codes with --quantize instead")
    entries = plan(source, spec, "float32")
    for entry in entries:
        if isinstance(entry.tensor, Derived):
            raise ModelError(
                f"{source.path}: {shown(entry.tensor.name)} is put together of others; load it with --quantize instead"
            )
        if entry.tensor.dtype not in PLAIN:
            raise ModelError(f"{source.path}: {shown(entry.tensor.name)} is quantized already ({entry.tensor.dtype})")
        if entry.index >= 0:
            raise ModelError(
                f"{source.path}: {shown(entry.tensor.name)} holds all experts of a layer, which compressed-tensors "
                "does not read; load it with --quantize instead"
            )
        if entry.transposed:
            raise ModelError(
                f"{source.path}: {shown(entry.tensor.name)} is stored [inputs, outputs], which compressed-tensors does "
                "not read; load it with --quantize instead"
            )
    vectors = [entry for entry in entries if entry.form is None]
    weights: Weights = views(vectors, np.concatenate([*packed_parts(vectors)]))
    weights |= {entry.key: _empty(entry) for entry in entries if entry.form is not None}
    program = lower(spec, weights, kv_dtype="float32", max_len=spec.max_len, exact=True)
    one = replace(program, ops=tuple(map(_first_layer, program.ops)), kv=replace(program.kv, layers=1))
    keys = {id(weight): key for key, weight in weights.items() if isinstance(weight, Weight)}
    return Plain(source, spec, {entry.key: entry for entry in entries}, one, keys)


def _empty(entry: Entry) -> Weight:
    rows, cols = entry.shape
    return Weight(Layout.F32, rows, cols, 0, np.empty(0, np.uint8))


def _first_layer(op: Op) -> Op:
    """The same operation on the pages of layer 0: a walk leaves a layer before it comes to the next."""
    return replace(op, layer=0) if isinstance(op, (Qkv, Attend)) else op
