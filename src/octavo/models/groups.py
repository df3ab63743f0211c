"""Which layers share pages: the cache groups of a model (core/layout.py).

Layers with one window make one or more groups; all groups of a model have the same number of layers, so that their
pages are alike. That number is the count of the rarest kind of layers, but for models that would need too many groups:
Gemma 3's five windows to one full layer are five groups and one. What does not divide leaves places of layers empty.
Follows from the spec alone, whatever length is served.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from octavo.core.layout import KvLayout
from octavo.models.spec import Attn, ModelSpec, places

MOST_GROUPS = 16


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a layer's keys and values lie: at place `layer` in pages of group `group`."""

    group: int
    layer: int


def kv_layout(spec: ModelSpec, dtype: str) -> KvLayout:
    """How the keys and values of a model lie in pages."""
    attn, size = spec.layers[0].attn, _size(spec)
    windows = [window for window, count in _kinds(spec) for _ in range(-(-count // size))]
    return KvLayout(size, attn.kv_heads, places(attn.head_dim), dtype, tuple(windows))


def seats(spec: ModelSpec) -> list[Seat]:
    """The place of each layer."""
    size, first, begin = _size(spec), 0, {}
    for window, count in _kinds(spec):
        begin[window] = first * size
        first += -(-count // size)
    found = []
    for layer in spec.layers:
        window = _window(layer.attn, spec)
        found.append(Seat(*divmod(begin[window], size)))
        begin[window] += 1
    return found


def _size(spec: ModelSpec) -> int:
    """Layers of a group."""
    return max(min(count for _, count in _kinds(spec)), -(-len(spec.layers) // MOST_GROUPS))


def _kinds(spec: ModelSpec) -> list[tuple[int, int]]:
    """Each window and how many layers have it; those that see all come first."""
    return sorted(Counter(_window(layer.attn, spec) for layer in spec.layers).items())


def _window(attn: Attn, spec: ModelSpec) -> int:
    """How many positions up to its own a token sees for as long as sequences grow; 0: all."""
    return attn.window if attn.causal and attn.window < spec.max_len else 0
