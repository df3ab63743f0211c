"""Matrices whose inputs a file sorts by group (act-order of GPTQ): which are read so, and who writes their inputs so.

A norm, and attention, give what they compute in any one order (Act.order), on which all that read it must agree: so may
queries, keys and values, gate and up, and attention's last matrix. What the last matrix of a feed-forward reads is
written in its order by the rows of the matrices before it. Experts read one input in orders of their own, and latent
attention and convolutions write theirs in order: there matrices stay plain. Knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from octavo.checkpoint.tensor import Derived, Tensor
from octavo.models.entry import Entry
from octavo.models.parts import Part
from octavo.models.rows import Rows
from octavo.models.spec import Attn

SHARED = (("q", "k", "v"), ("gate", "up"))  # matrices that read one input
LAST = ("down", "expert_down")

Found = Mapping[str, tuple[Part, Tensor | Derived]]


def arranged(found: Found) -> dict[str, Derived]:
    """The parts that are read with their inputs in an order of the file's. found: parts and their tensors, by key."""
    return {key: tensor for key in found if (tensor := _arranged(found, key)) and _may(found, key, tensor.order)}


def _arranged(found: Found, key: str) -> Derived | None:
    tensor = found[key][1] if key in found else None
    return tensor.arranged if isinstance(tensor, Derived) else None


def _may(found: Found, key: str, order: bytes) -> bool:
    """Whether what a part reads can be written in its order."""
    at, _, name = key.rpartition(".")
    layer = found[key][0].layer
    if layer is None or name in LAST:
        return layer is not None
    together = next((names for names in SHARED if name in names), ())
    if name == "o" or "q" in together:
        if not isinstance(layer.mixer, Attn) or layer.mixer.latent:
            return False
    elif not together:
        return False
    others = [f"{at}.{other}" for other in together if f"{at}.{other}" in found]
    return all((tensor := _arranged(found, other)) and tensor.order == order for other in others)


def written(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with rows in the order in which the last matrix of their feed-forward reads them."""
    orders: dict[str, Rows] = {}
    for entry in entries:
        if entry.key.rpartition(".")[2] in LAST and entry.order:
            before = entry.key.removesuffix("down")
            order = np.frombuffer(entry.order, np.int32).astype(np.intp)
            orders |= {before + name: order for name in ("gate", "gate_bias", "up", "up_bias")}
            orders[entry.key] = order
    out = []
    for entry in entries:
        if entry.key not in orders:
            out.append(entry)
        elif entry.key.endswith("down"):
            out.append(replace(entry, order=b""))
        else:
            rows = orders[entry.key]
            out.append(replace(entry, rows=rows if entry.rows is None else entry.rows[rows]))
    return out
