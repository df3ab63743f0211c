"""From a checkpoint's tensors to a model's weights: the names, shapes and forms that models/lower.py expects.

Everything is checked against the headers before the first byte is packed; no format survives. Our names and shapes are
those of models/parts.py. Matrices become a `Weight`, norms, biases and learned positions float32. Knows no
architecture: names come from its data.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from octavo.checkpoint.source import Source
from octavo.checkpoint.tensor import Bytes, Derived, Tensor, shown
from octavo.core.errors import InvalidValue, ModelError
from octavo.core.memory import Advice, advise, block
from octavo.kernels.weight import Layout, Weight, read_as
from octavo.models import order
from octavo.models.entry import Entry, read
from octavo.models.names import Tensors
from octavo.models.parts import Part, parts
from octavo.models.precision import checked, kept
from octavo.models.registry import architecture_of
from octavo.models.rows import (
    Rows,
    flat,
    head_norm_rows,
    head_norm_stored,
    latent_rows,
    latent_stored,
    projection_rows,
    projection_stored,
)
from octavo.models.spec import ModelSpec, Moe
from octavo.models.widened import warn
from octavo.quant.folder import plain_tensors
from octavo.quant.format import SUPPORTED, format_of, regrouped, widened
from octavo.quant.online import online_format
from octavo.quant.plain import PLAIN

DTYPES = ("auto", "bfloat16", "float32")
WIDE = ("F32", "F16")  # more than bfloat16 holds
LISTED = 4  # most tensors an error names
BEHIND = r"\d_linear\.(weight|bias)"  # of modules behind a model that shall generate
CATEGORIES = {
    **dict.fromkeys(("embed", "positions", "types"), "embedding"),
    "head": "head",
    **dict.fromkeys(("q", "k", "v", "o", "q_a", "q_b", "kv_a", "k_b", "v_b"), "attention"),
    **dict.fromkeys(("conv_b", "conv_c", "conv_z", "taps"), "convolution"),
    **dict.fromkeys(("gate", "up", "down"), "feed_forward"),
    **dict.fromkeys(("router", "shared_gate", "expert_gate", "expert_up", "expert_down"), "experts"),
}
PAIRS = (("gate", "up"), ("expert_gate", "expert_up"))  # that files may have in one tensor
CONV = ("conv_b", "conv_c", "conv_z")  # that they have in one, one below the other
LATENT = ("q", "q_b", "kv_a", "k_b", "v_b")  # that latent attention arranges
READ_TOGETHER = {"q": ("q", "k", "v"), **{pair[0]: pair for pair in PAIRS}}  # matrices that read one input
READ_TOGETHER |= {"kv_a": ("kv_a", "q_a", "q"), "conv_b": CONV, "expert_down": ("expert_down",)}

Weights = dict[str, Weight | npt.NDArray[np.float32]]


def load(
    source: Source,
    spec: ModelSpec,
    *,
    dtype: str = "auto",
    quantization: str = "none",
    progress: Callable[[float], None] | None = None,
) -> Weights:
    """Read and pack all weights. Raises ModelError, before anything is allocated, for what does not fit the spec.

    dtype, of unquantized matrices: "bfloat16" and "float32" keep that; "auto" bfloat16, but of what the file of an
    encoder says in more codes of int16, or float32 where no group divides its inputs: its steps are long ones, and so
    they are twice as fast and nearer to the file than in bfloat16. quantization: "int16", "int8" or "int4" quantizes
    all of them, see models/precision.py. `progress` is told the share of bytes done, ending with 1.
    """
    entries = plan(source, spec, dtype, quantization)
    warn(source, entries)
    packed, at = block(block_bytes(entries)), 0
    advise(packed, Advice.HUGEPAGE)
    for part in packed_parts(entries, progress):
        packed[at : at + part.nbytes] = part
        at += part.nbytes
    packed.flags.writeable = False
    return views(entries, packed)


def block_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all weights in one block."""
    return sum(entry.room for entry in entries)


def packed_parts(entries: Sequence[Entry], progress: Callable[[float], None] | None = None) -> Iterator[Bytes]:
    """The block of all weights, read and packed one entry after another. uint8 [entry.room] each. Raises ModelError."""
    total, done = sum(entry.stored_bytes for entry in entries), 0
    for tensor, together in groupby(entries, key=lambda entry: entry.tensor):
        raw: Bytes | None = None
        for entry in together:
            try:
                raw = tensor.read() if raw is None else raw
                packed = read(entry, raw)
            except ValueError as error:
                raise ModelError(f"{tensor.file.path}: tensor {shown(tensor.name)} {error}") from None
            yield np.pad(packed, (0, entry.room - packed.nbytes))
            done += entry.stored_bytes
            if progress:
                progress(done / total)
        tensor.release()


def views(entries: Sequence[Entry], packed: Bytes) -> Weights:
    """The weights that lie in a block that `packed_parts` gave."""
    weights: Weights = {}
    at = 0
    for entry in entries:
        data = packed[at : at + entry.nbytes]
        if entry.form is None:
            weights[entry.key] = data.view(np.float32).reshape(entry.shape)
        else:
            rows, cols = entry.shape
            weights[entry.key] = Weight(entry.form.layout, rows, cols, entry.form.group, data, entry.order)
        at += entry.room
    return weights


def footprint(source: Source, spec: ModelSpec, dtype: str = "auto", quantization: str = "none") -> dict[str, int]:
    """Bytes that `load` will give, from headers alone, by category. Raises ModelError as `load` does."""
    sizes: dict[str, int] = {}
    for entry in plan(source, spec, dtype, quantization):
        category = CATEGORIES.get(entry.key.rpartition(".")[2], "norms_and_biases")
        sizes[category] = sizes.get(category, 0) + entry.nbytes
    return sizes


def plan(source: Source, spec: ModelSpec, dtype: str, quantization: str = "none") -> list[Entry]:
    """What is to be read, checked: every tensor there, of the right shape and a known type, and none besides.

    Raises ModelError, and InvalidValue for quantization of what is quantized already.
    """
    if dtype not in DTYPES:
        raise InvalidValue("dtype", dtype, " or ".join(DTYPES))
    tensors, held = architecture_of(source).tensors[source.kind], plain_tensors(source)
    held = tensors.join(held) if tensors.join else held
    wanted = [(tensors.written(part.key, held), part) for part in parts(spec)]
    shared = Counter(name for name, _ in wanted)
    missing = [name for name in shared if name not in held]
    harmless = re.compile("|".join(f"(?:{pattern})" for pattern in (*tensors.harmless, BEHIND)))
    head = {tensors.written(key, held) for key in ("head", "head_bias") if key in tensors.names and not spec.head}
    extra = [name for name in held if name not in shared and name not in head and not harmless.fullmatch(name)]
    faults: dict[str, None] = {}
    entries = []
    ordered = order.arranged({part.key: (part, held[name]) for name, part in wanted if name in held})
    for name, part in wanted:
        if name not in held:
            continue
        tensor = ordered.get(part.key) or held[name]
        alone = tensor.shape[0] if _indexed(part, tensor) else 1
        fused = tensors.fused.get(part.name, "" if part.expert < 0 else "stacked") if shared[name] > alone else ""
        finely = dtype == "auto" and not spec.causal and tensor.dtype in WIDE
        entry = _entry(part, tensor, tensors, "float32" if finely else dtype, fused)
        entry = _in_codes(entry, "int16", len(spec.layers)) if finely else entry
        fault = _fault(entry, _stored(part, tensors, fused, entry.transposed), part)
        if fault:
            faults[f"{shown(name)} {fault}"] = None
        else:  # a map as long as the tensor is, which is there
            entries.append(replace(entry, rows=_rows(part, tensors, fused)))
    problems = [_listed("missing", list(map(shown, missing))), _listed("unexpected", list(map(shown, extra)))]
    problems.append(_listed("unfit", list(faults)))
    if any(problems):
        raise ModelError(f"{source.path}: tensors do not fit the model: " + "; ".join(filter(None, problems)))
    if checked(quantization) != "none":
        entries = _quantized(source, entries, quantization, len(spec.layers))
    return agreed(order.written(entries))


def _quantized(source: Source, entries: list[Entry], quantization: str, layers: int) -> list[Entry]:
    """The same entries with matrices in codes, but for those whose inputs no group divides."""
    out = []
    for entry in entries:
        if entry.form is not None and entry.tensor.dtype not in PLAIN:
            told = f"none: {source.path} is quantized already ({entry.tensor.dtype})"
            raise InvalidValue("quantization", quantization, told)
        out.append(_in_codes(entry, quantization, layers))
    return out


def _in_codes(entry: Entry, quantization: str, layers: int) -> Entry:
    """The entry with its matrix of plain numbers in codes, if a group divides its inputs."""
    if entry.form is None or entry.exact:
        return entry
    stored = "F32" if entry.unit or entry.blocks else entry.tensor.dtype
    form = online_format(stored, entry.shape[1], *kept(quantization, entry.key, layers))
    return replace(entry, form=form or entry.form)


def agreed(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose matrices, where they read one input, read it in one form.

    Groups that differ become the largest that divides them all: the same values. Integer codes beside plain numbers, or
    beside codes of floats, become plain numbers: rounded once.
    """
    forms = {entry.key: entry.form for entry in entries}
    for together in _together([key for key, form in forms.items() if form]):
        found = [form for name in together if (form := forms[name])]
        reads = [read_as(form.layout, form.group) for form in found]
        if len(set(reads)) < 2:
            continue
        bits = max(bits for bits, _ in reads)
        group = math.gcd(*(size for _, size in reads))
        for name, form in zip(together, found, strict=True):
            if bits == 8:
                forms[name] = regrouped(form, group)
            else:
                forms[name] = widened(form, Layout.BF16 if bits == 16 else Layout.F32)
    return [replace(entry, form=forms[entry.key]) for entry in entries]


def _together(keys: Sequence[str]) -> Iterable[list[str]]:
    """The matrices that read one input: those of a layer, and of a mixture those of all its experts."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        at, _, part = key.rpartition(".")
        at = at.rpartition(".")[0] if part.startswith("expert_") else at
        for first, names in READ_TOGETHER.items():
            if part in names:
                found.setdefault((at, first), []).append(key)
    return found.values()


def _indexed(part: Part, tensor: Tensor | Derived) -> bool:
    """Whether the tensor holds the same part of all experts."""
    return part.expert >= 0 and len(tensor.shape) > len(part.shape)


def _entry(part: Part, tensor: Tensor | Derived, tensors: Tensors, dtype: str, fused: str) -> Entry:
    """How a part is read from its tensor, but for the map of its rows."""
    blocks = part.layer.attn.heads if part.layer and part.name == "k_b" and fused else 0
    computed = bool(blocks) or (part.unit and tensor.dtype in PLAIN)
    form = None if part.is_vector else format_of(tensor.dtype, "float32" if part.exact else dtype)
    form = format_of("F32", dtype) if form and computed else form  # as computing with its numbers leaves it
    # Experts' codes lie by outputs even where their numbers would not.
    transposed = part.name in tensors.transposed and not part.is_vector and (part.expert < 0 or tensor.dtype in PLAIN)
    plus = 1.0 if part.name in tensors.plus_one and not part.key.endswith("_bias") else 0.0
    index = part.expert if _indexed(part, tensor) else -1
    given = tensor.order if isinstance(tensor, Derived) else b""
    return Entry(
        part.key, tensor, form, part.shape, None, transposed, plus, part.unit, index, part.exact, blocks, given
    )


def _stored(part: Part, tensors: Tensors, fused: str, transposed: bool) -> tuple[int, ...]:
    """The shape that must be stored of a part, of one expert where there are several."""
    layer, name = part.layer, part.name
    rows = part.shape[0] + tensors.skipped.get(name, 0)
    if layer and name in CONV:
        rows *= len(CONV)
    elif layer and name in LATENT and layer.attn.latent:
        latent = layer.attn.latent
        rows = latent_stored(name, layer.attn, latent, fused)
        if name == "k_b" and fused:
            return rows, latent.rank
    elif layer and name in ("q", "k", "v"):
        rows = projection_stored(name, layer.attn, fused)
    elif layer and name in ("q_norm", "k_norm"):
        rows, dim = head_norm_stored(name, layer.attn), layer.attn.head_dim
        if layer.attn.head_norm and layer.attn.head_norm.shares == "none":
            return rows // dim, dim
    elif layer and any(name in pair for pair in PAIRS):
        rows *= 2 if fused else 1
    shape = (rows, *part.shape[1:])
    return shape[::-1] if transposed else shape


def _rows(part: Part, tensors: Tensors, fused: str) -> Rows | None:
    """Which stored rows a part consists of; None: all."""
    layer, name = part.layer, part.name
    if name in CONV:
        return np.arange(part.shape[0]) + CONV.index(name) * part.shape[0]
    if layer and name in LATENT and layer.attn.latent:
        found = latent_rows(name, layer.attn, layer.attn.latent, fused, tensors.interleaved)
        return None if found is None else flat(found, latent_stored(name, layer.attn, layer.attn.latent, fused))
    if layer and name in ("q", "k", "v"):
        rows = projection_rows(name, layer.attn, fused, tensors.interleaved)
        return flat(rows, projection_stored(name, layer.attn, fused))
    if layer and name in ("q_norm", "k_norm"):
        return flat(head_norm_rows(name, layer.attn, tensors.interleaved), head_norm_stored(name, layer.attn))
    first = tensors.skipped.get(name, 0)
    if layer and any(name in pair for pair in PAIRS) and fused:
        second = name.endswith("up")
        if fused == "alternating":
            return np.arange(second, 2 * part.shape[0], 2)
        first = part.shape[0] if second else 0
    elif not first:
        return None
    return np.arange(first, first + part.shape[0])


def _fault(entry: Entry, stored: tuple[int, ...], part: Part) -> str:
    """What is wrong with a tensor of which the shape `stored` is to be read, or nothing."""
    tensor, form = entry.tensor, entry.form
    if entry.index >= 0 and part.layer and isinstance(part.layer.ffn, Moe):
        stored = (part.layer.ffn.experts, *stored)
    flat = part.name == "shared_gate" and tensor.shape == stored[1:]  # as GGUF files have it
    if part.layer and part.name in ("k_b", "v_b") and len(tensor.shape) == 3:  # and this
        heads = part.layer.attn.heads
        flat = tensor.shape == (heads, stored[0] // heads, stored[1])
    flat |= part.name == "taps" and tensor.shape == (*stored[:1], 1, *stored[1:])  # as transformers has them
    if tensor.shape != stored and not flat:
        return f"has the shape {list(tensor.shape)}, expected {list(stored)}"
    if part.exact and tensor.dtype not in PLAIN:
        return f"is stored as {tensor.dtype}; experts are chosen by {', '.join(PLAIN)}"
    if part.is_vector:
        return "" if tensor.dtype in PLAIN else f"is stored as {tensor.dtype}; vectors are read as {', '.join(PLAIN)}"
    if form is None:
        return f"is stored as {tensor.dtype}; read are {', '.join(SUPPORTED)}"
    if entry.transposed and tensor.dtype not in PLAIN:
        return f"is stored as {tensor.dtype} and [inputs, outputs]; so are read {', '.join(PLAIN)}"
    if entry.unit and tensor.dtype not in PLAIN:
        return f"is stored as {tensor.dtype}; rows to be divided by their lengths are read as {', '.join(PLAIN)}"
    if form.group and entry.shape[1] % form.group:
        return f"has {entry.shape[1]} inputs, not a multiple of {form.group}"
    return ""


def _listed(what: str, names: list[str]) -> str:
    """A few of the names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{what}: {', '.join(names[:LISTED])}{more}"
