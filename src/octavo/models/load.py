"""From a checkpoint's tensors to a model's weights: the names, shapes and forms that models/lower.py expects.

Everything is checked against the headers before the first byte is packed; no format survives. Our names:

    embed  norm  head (absent when tied)
    layers.{i}.attn_norm  .q  .k  .v  .o  .ffn_norm  .gate  .up  .down
    layers.{i}.q_bias  .k_bias  .v_bias  .o_bias  .gate_bias  .up_bias  .down_bias, where the model has them

Matrices become a `Weight`, norms and biases float32. Knows no architecture: names come from its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Bytes, Derived, Tensor, shown
from octavo.core.errors import InvalidValue, ModelError
from octavo.core.memory import Advice, advise, block
from octavo.kernels.weight import Layout, Weight, read_as
from octavo.models.registry import architecture_of
from octavo.models.spec import Layer, ModelSpec
from octavo.quant.folder import plain_tensors
from octavo.quant.format import SUPPORTED, Format, format_of, pack, regrouped, vector, widened
from octavo.quant.plain import PLAIN

DTYPES = ("auto", "bfloat16", "float32")
LINE = 64  # bytes of a cache line
LISTED = 4  # most tensors an error names
CATEGORIES = {"embed": "embedding", "head": "head", "q": "attention", "k": "attention", "v": "attention"}
CATEGORIES |= {"o": "attention", "gate": "feed_forward", "up": "feed_forward", "down": "feed_forward"}
READ_TOGETHER = {"q": ("q", "k", "v"), "gate": ("gate", "up")}  # matrices of a layer that read one input

Weights = dict[str, Weight | npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor to load. `form` None: a vector. `heads`: rows to put back in Hugging Face order, 0: as they are."""

    key: str
    tensor: Tensor | Derived
    form: Format | None
    heads: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        if self.form is None:
            return self.tensor.shape[0] * 4
        return self.form.packed_bytes(*self.tensor.shape)

    @property
    def room(self) -> int:
        """Bytes in a block: up to the next cache line."""
        return -(-self.nbytes // LINE) * LINE


def load(
    source: Source, spec: ModelSpec, *, dtype: str = "auto", progress: Callable[[float], None] | None = None
) -> Weights:
    """Read and pack all weights. Raises ModelError, before anything is allocated, for what does not fit the spec.

    dtype, of unquantized matrices: "auto" and "bfloat16" keep bfloat16, "float32" float32. `progress` is told the
    share of bytes done, ending with 1.
    """
    entries = plan(source, spec, dtype)
    packed, at = block(block_bytes(entries)), 0
    advise(packed, Advice.HUGEPAGE)
    for part in parts(entries, progress):
        packed[at : at + part.nbytes] = part
        at += part.nbytes
    packed.flags.writeable = False
    return views(entries, packed)


def block_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all weights in one block."""
    return sum(entry.room for entry in entries)


def parts(entries: Sequence[Entry], progress: Callable[[float], None] | None = None) -> Iterator[Bytes]:
    """The block of all weights, read and packed one entry after another. uint8 [entry.room] each. Raises ModelError."""
    total, done = sum(entry.tensor.nbytes for entry in entries), 0
    for entry in entries:
        try:
            packed = _read(entry)
        except ValueError as error:
            raise ModelError(f"{entry.tensor.file.path}: tensor {shown(entry.tensor.name)} {error}") from None
        entry.tensor.release()
        yield np.pad(packed, (0, entry.room - packed.nbytes))
        done += entry.tensor.nbytes
        if progress:
            progress(done / total)


def views(entries: Sequence[Entry], packed: Bytes) -> Weights:
    """The weights that lie in a block that `parts` gave."""
    weights: Weights = {}
    at = 0
    for entry in entries:
        data = packed[at : at + entry.nbytes]
        if entry.form is None:
            weights[entry.key] = data.view(np.float32)
        else:
            rows, cols = entry.tensor.shape
            weights[entry.key] = Weight(entry.form.layout, rows, cols, entry.form.group, data)
        at += entry.room
    return weights


def footprint(source: Source, spec: ModelSpec, dtype: str = "auto") -> dict[str, int]:
    """Bytes that `load` will give, from headers alone, by category. Raises ModelError as `load` does."""
    sizes: dict[str, int] = {}
    for entry in plan(source, spec, dtype):
        category = CATEGORIES.get(entry.key.rpartition(".")[2], "norms_and_biases")
        sizes[category] = sizes.get(category, 0) + entry.nbytes
    return sizes


def plan(source: Source, spec: ModelSpec, dtype: str) -> list[Entry]:
    """What is to be read, checked: every tensor there, of the right shape and a known type, and none besides."""
    if dtype not in DTYPES:
        raise InvalidValue("dtype", dtype, " or ".join(DTYPES))
    tensors, stored = architecture_of(source).tensors[source.kind], plain_tensors(source)
    wanted = {key: (_written(tensors.names, key), shape, heads) for key, shape, heads in shapes(spec)}
    missing = [name for name, _, _ in wanted.values() if name not in stored]
    known = {name for name, _, _ in wanted.values()}
    harmless = re.compile("|".join(f"(?:{pattern})" for pattern in tensors.harmless))
    extra = [name for name in stored if name not in known and not harmless.fullmatch(name)]
    faults, entries = [], []
    for key, (name, shape, heads) in wanted.items():
        if name not in stored:
            continue
        tensor = stored[name]
        form = format_of(tensor.dtype, dtype) if len(shape) == 2 else None
        fault = _fault(tensor, shape, form)
        if fault:
            faults.append(f"{shown(name)} {fault}")
        mixed = key.rpartition(".")[2] in tensors.halves_interleaved
        entries.append(Entry(key, tensor, form, heads if mixed else 0))
    problems = [_listed("missing", list(map(shown, missing))), _listed("unexpected", list(map(shown, extra)))]
    problems.append(_listed("unfit", faults))
    if any(problems):
        raise ModelError(f"{source.path}: tensors do not fit the model: " + "; ".join(filter(None, problems)))
    return agreed(entries)


def agreed(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose matrices, where they read one input, read it in one form.

    Groups that differ become the largest that divides them all: the same values. Codes beside plain numbers become
    plain numbers too: rounded once.
    """
    forms = {entry.key: entry.form for entry in entries}
    for key in forms:
        at, _, part = key.rpartition(".")
        together = [f"{at}.{name}" for name in READ_TOGETHER.get(part, ())]
        found = [form for name in together if (form := forms.get(name))]
        reads = [read_as(form.layout, form.group) for form in found]
        if len(set(reads)) < 2:
            continue
        bits = max(bits for bits, _ in reads)
        group = gcd(*(size for _, size in reads))
        for name, form in zip(together, found, strict=True):
            if bits == 8:
                forms[name] = regrouped(form, group)
            else:
                forms[name] = widened(form, Layout.BF16 if bits == 16 else Layout.F32)
    return [replace(entry, form=forms[entry.key]) for entry in entries]


def shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Every tensor of a model: our name, shape, and for those with rows by head how many heads (0: others)."""
    yield "embed", (spec.vocab, spec.width), 0
    for i, layer in enumerate(spec.layers):
        for name, shape, heads in _layer_shapes(layer, spec.width):
            yield f"layers.{i}.{name}", shape, heads
    yield "norm", (spec.width,), 0
    if not spec.tied:
        yield "head", (spec.vocab, spec.width), 0


def _layer_shapes(layer: Layer, width: int) -> Iterator[tuple[str, tuple[int, ...], int]]:
    attn, inner = layer.attn, layer.mlp.inner
    outputs, keys = attn.heads * attn.head_dim, attn.kv_heads * attn.head_dim
    projections = [
        ("q", outputs, width, attn.heads, attn.qkv_bias),
        ("k", keys, width, attn.kv_heads, attn.qkv_bias),
        ("v", keys, width, attn.kv_heads, attn.qkv_bias),
        ("o", width, outputs, 0, attn.out_bias),
        ("gate", inner, width, 0, layer.mlp.bias),
        ("up", inner, width, 0, layer.mlp.bias),
        ("down", width, inner, 0, layer.mlp.bias),
    ]
    yield "attn_norm", (width,), 0
    yield "ffn_norm", (width,), 0
    for name, rows, cols, heads, bias in projections:
        yield name, (rows, cols), heads
        if bias:
            yield f"{name}_bias", (rows,), heads


def _written(names: Mapping[str, str], key: str) -> str:
    """The format's name of a tensor of ours."""
    if key.startswith("layers."):
        _, i, part = key.split(".")
        return names["layers.{i}." + part].replace("{i}", i)
    return names[key]


def _fault(tensor: Tensor | Derived, shape: tuple[int, ...], form: Format | None) -> str:
    """What is wrong with a tensor, or nothing."""
    if tensor.shape != shape:
        return f"has the shape {list(tensor.shape)}, expected {list(shape)}"
    if len(shape) == 1:
        return "" if tensor.dtype in PLAIN else f"is stored as {tensor.dtype}; vectors are read as {', '.join(PLAIN)}"
    if form is None:
        return f"is stored as {tensor.dtype}; read are {', '.join(SUPPORTED)}"
    if form.group and shape[1] % form.group:
        return f"has {shape[1]} inputs, not a multiple of {form.group}"
    return ""


def _listed(what: str, names: list[str]) -> str:
    """A few of the names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{what}: {', '.join(names[:LISTED])}{more}"


def _read(entry: Entry) -> Bytes:
    """One tensor, packed. uint8 [entry.nbytes]. Raises ValueError for values that are no numbers."""
    raw, tensor = entry.tensor.read(), entry.tensor
    rows: Bytes = raw.reshape(tensor.shape[0], -1)
    if entry.heads:
        rows = rows.reshape(entry.heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
    if entry.form is None:
        return vector(rows, tensor.dtype).view(np.uint8)
    return pack(entry.form, rows, tensor.shape[1]).data
