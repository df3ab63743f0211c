"""Cache groups of models: each layer has a place of its own, among layers that see the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.models.groups import MOST_GROUPS, kv_layout, seats
from octavo.models.spec import Attn, Conv, Layer, Mlp, ModelSpec, Norm, Rope

LAYER = Layer(Attn(8, 4, 80, Rope()), Mlp(64), Norm())


def model(windows: list[int], **changes: bool) -> ModelSpec:
    layers = tuple(replace(LAYER, mixer=replace(LAYER.attn, window=window, **changes)) for window in windows)
    return ModelSpec(vocab=9, width=64, layers=layers, norm=Norm(), tied=True, max_len=8192)


@pytest.mark.parametrize(
    ("windows", "layers", "groups"),
    [
        ([0] * 32, 32, (0,)),
        ([4096] * 32, 32, (4096,)),  # Mistral
        ([4096, 0] * 13, 13, (0, 4096)),  # Gemma 2
        (([512] * 5 + [0]) * 4 + [512] * 2, 4, (0, *[512] * 6)),  # Gemma 3: two places are left empty
        ([0] + [512] * 47, 3, (0, *[512] * 16)),  # else 48 groups
        ([8192] * 4, 4, (0,)),  # as long as a sequence
        ([8192, 0], 2, (0,)),
    ],
)
def test_groups_of_known_models(windows, layers, groups):
    spec = model(windows)
    kv = kv_layout(spec, "bfloat16")
    assert (kv.layers, kv.windows, kv.kv_heads, kv.head_dim) == (layers, groups, 4, 96)


def test_what_sees_the_tokens_behind_it_gives_nothing_back():
    assert kv_layout(model([64, 0], causal=False), "bfloat16").windows == (0,)


@given(st.lists(st.sampled_from([0, 0, 64, 65, 9000]), min_size=1, max_size=60))
def test_each_layer_has_a_place_among_its_like(windows):
    spec = model(windows)
    kv, places = kv_layout(spec, "bfloat16"), seats(spec)
    assert len(set(places)) == len(windows)
    for window, seat in zip(windows, places, strict=True):
        assert 0 <= seat.layer < kv.layers
        assert kv.windows[seat.group] == (window if window < spec.max_len else 0)
    assert {seat.group for seat in places} == set(range(kv.groups))
    assert kv.groups < MOST_GROUPS + len(set(windows))


def hybrid(kinds: str, width: int, taps: int = 3) -> ModelSpec:
    """A letter for each layer: "a" has attention, 8 key heads of 64, "c" a convolution."""
    attention = replace(LAYER, mixer=Attn(32, 8, 64, Rope()))
    layers = tuple(attention if kind == "a" else replace(attention, mixer=Conv(taps)) for kind in kinds)
    return ModelSpec(vocab=9, width=width, layers=layers, norm=Norm(), tied=True, max_len=8192)


@pytest.mark.parametrize(
    ("kinds", "width", "layers", "groups"),
    [
        ("ccaccaccacacacac", 1024, 6, (0, 3, 3)),  # LFM2-350M: two places are left empty
        ("ccaccaccacacacac", 2048, 6, (0, 3, 3, 3, 3)),  # LFM2-1.2B: each convolution takes two
        ("aac", 4096, 4, (0, 3)),  # a group holds a whole layer
        ("ca" * 4, 1024, 4, (0, 3)),
    ],
)
def test_groups_of_convolutions(kinds, width, layers, groups):
    kv = kv_layout(hybrid(kinds, width), "bfloat16")
    assert (kv.layers, kv.windows, kv.kv_heads, kv.head_dim) == (layers, groups, 8, 64)


@given(st.text("ac", max_size=40), st.integers(1, 9000), st.sampled_from([1, 3, 9000]))
def test_each_convolution_has_places_of_its_own(kinds, width, taps):
    spec = hybrid(kinds + "a", width, taps)
    kv, taken = kv_layout(spec, "float32"), set()
    for layer, seat in zip(spec.layers, seats(spec), strict=True):
        convolves = isinstance(layer.mixer, Conv)
        for place in range(kv.seats(width) if convolves else 1):
            assert seat.layer + place < kv.layers
            assert (seat.group, seat.layer + place) not in taken
            taken.add((seat.group, seat.layer + place))
        assert kv.windows[seat.group] == (taps if convolves and taps < spec.max_len else 0)
    assert {group for group, _ in taken} == set(range(kv.groups))
