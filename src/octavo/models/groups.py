"""Which layers share pages: the cache groups of a model (core/layout.py).

Layers of one kind make one or more groups; a kind is a window, and how many places a layer takes: attention one, a
convolution, whose window are its taps, as many as its numbers need. All groups of a model have the same number of
places, so that their pages are alike: what the rarest kind takes, but for models that would need too many groups.
Gemma 3's five windows to one full layer are five groups and one; of LFM2-1.2B six layers that see all are a group, and
ten convolutions of two places each are four. What does not divide leaves places empty. Follows from the spec alone,
whatever length is served.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from octavo.core.layout import KvLayout
from octavo.models.spec import Attn, Conv, ModelSpec, places

MOST_GROUPS = 16


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a layer's keys and values lie: at place `layer` in pages of group `group`, or from there on."""

    group: int
    layer: int


@dataclass(frozen=True, slots=True, order=True)
class _Kind:
    """What layers must have in common to share pages."""

    window: int
    places: int


def kv_layout(spec: ModelSpec, dtype: str) -> KvLayout:
    """How the keys and values of a model lie in pages."""
    size = _size(spec)
    windows = [kind.window for kind, count in _kinds(spec) for _ in range(-(-count // (size // kind.places)))]
    return replace(_one_place(spec), layers=size, dtype=dtype, windows=tuple(windows))


def seats(spec: ModelSpec) -> list[Seat]:
    """The place of each layer, of those that take more the first."""
    size, first, taken = _size(spec), {}, dict[_Kind, int]()
    groups = 0
    for kind, count in _kinds(spec):
        first[kind], taken[kind] = groups, 0
        groups += -(-count // (size // kind.places))
    found = []
    for layer in spec.layers:
        kind = _kind(layer.mixer, spec)
        group, number = divmod(taken[kind], size // kind.places)
        found.append(Seat(first[kind] + group, number * kind.places))
        taken[kind] += 1
    return found


def _size(spec: ModelSpec) -> int:
    """Places of a group: no fewer than any layer takes."""
    kinds = _kinds(spec)
    taken = [count * kind.places for kind, count in kinds]
    return max(min(taken), -(-sum(taken) // MOST_GROUPS), *(kind.places for kind, _ in kinds))


def _kinds(spec: ModelSpec) -> list[tuple[_Kind, int]]:
    """Each kind and how many layers are of it; those that see all come first."""
    return sorted(Counter(_kind(layer.mixer, spec) for layer in spec.layers).items())


def _kind(mixer: Attn | Conv, spec: ModelSpec) -> _Kind:
    """A window is one only where a token does not come to see all for as long as sequences grow; 0: all."""
    if isinstance(mixer, Conv):
        return _Kind(mixer.taps if mixer.taps < spec.max_len else 0, _one_place(spec).seats(spec.width))
    return _Kind(mixer.window if mixer.causal and mixer.window < spec.max_len else 0, 1)


def _one_place(spec: ModelSpec) -> KvLayout:
    """What one layer of attention takes."""
    attn = spec.attns[0]
    return KvLayout(1, attn.kv_heads, places(attn.head_dim))
