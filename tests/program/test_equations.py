"""Equations of the ops that plain loops can check: norms, activations, and what attention sees and how it weighs it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.program.equations import activated, attention, capped, norm_heads, normed
from octavo.program.ops import ACTIVATIONS, Act, Attend, HeadNorm, Norming

RNG = np.random.default_rng(0)
FULL = Act(32)


def test_layer_norm_follows_its_equation() -> None:
    z, weight, bias = RNG.normal(3, 5, (4, 50)).astype(np.float32), RNG.normal(size=50), RNG.normal(size=50)
    norm = Norming("layer", weight.astype(np.float32), bias.astype(np.float32), 1e-3)
    for row, found in zip(z.astype(float), normed(z, norm), strict=True):
        mean = sum(row) / 50
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / 50 + 1e-3)
        np.testing.assert_allclose(found, (row - mean) / deviation * weight + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(normed(z, Norming("layer", eps=0.0)).std(axis=1), 1, rtol=1e-5)
    assert normed(z, Norming("none")) is z


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("whole", [False, True])
def test_norms_of_heads_do_not_see_padding(kind: str, whole: bool) -> None:
    """24 true dims of 32 places: the same as without the other 8."""
    heads = RNG.normal(2, 3, (5, 3, 24)).astype(np.float32)
    weight = RNG.normal(size=(3, 24) if whole else 24).astype(np.float32)
    padded, wide = np.pad(heads, ((0, 0), (0, 0), (0, 8))), np.pad(weight, ((0, 0),) * (weight.ndim - 1) + ((0, 8),))
    found = norm_heads(padded, HeadNorm(Norming(kind, wide.reshape(-1)), whole), 24)
    alone = norm_heads(heads, HeadNorm(Norming(kind, weight.reshape(-1)), whole), 24)
    np.testing.assert_allclose(found[:, :, :24], alone, rtol=2e-4, atol=1e-5)
    assert not found[:, :, 24:].any()


def test_activations_follow_their_equations() -> None:
    z = np.linspace(-6, 6, 101).astype(np.float32)
    wanted = {
        "silu": [v / (1 + math.exp(-v)) for v in z],
        "gelu": [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in z],
        "gelu_tanh": [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in z],
        "relu": [max(v, 0) for v in z],
        "relu2": [max(v, 0) ** 2 for v in z],
    }
    assert set(wanted) == set(ACTIVATIONS)
    for name, values in wanted.items():
        np.testing.assert_allclose(activated(z, name), values, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(capped(z, 2.0), [2 * math.tanh(v / 2) for v in z], rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("extras", [False, True])
def test_attention_sees_and_weighs_as_declared(causal: bool, window: int, extras: bool) -> None:
    q, (keys, values) = RNG.normal(size=(6, 4, 8)), RNG.normal(size=(2, 11, 2, 8))
    own = np.arange(5, 11) if causal else np.arange(6)
    slopes, sinks = RNG.uniform(0, 1, (2, 4)).astype(np.float32)
    op = Attend(0, 0.6, FULL, window=window, causal=causal)
    if extras:
        op = Attend(0, 0.6, FULL, window=window, causal=causal, soft_cap=1.5, slopes=slopes, sinks=sinks)
    parts = [part.astype(np.float32) for part in (q, keys, values)]
    found = attention(*parts, own.astype(np.int32), op, "float32")
    for token, place in enumerate(own):
        for head in range(4):
            weights, out = [], np.zeros(8)
            for other in range(11):
                far = place - other
                if (causal and far < 0) or (window and abs(far) >= window):
                    continue
                score = 0.6 * float(q[token, head] @ keys[other, head // 2])
                if extras:
                    score = 1.5 * math.tanh(score / 1.5) - slopes[head] * far
                weights.append(math.exp(score))
                out += weights[-1] * values[other, head // 2]
            total = sum(weights) + (math.exp(sinks[head]) if extras else 0)
            np.testing.assert_allclose(found[token, head], out / total, rtol=1e-4, atol=1e-5)
