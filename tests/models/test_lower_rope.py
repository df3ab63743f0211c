"""Rotation tables against their formulas in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.core.errors import ModelError
from octavo.models.rope import frequencies, tables
from octavo.models.spec import Rope


def test_tables_are_rounded_once_from_float64() -> None:
    made = tables(Rope(theta=100000.0), 64, 8192)
    assert made.cos.shape == made.sin.shape == (8192, 32)
    assert made.cos.dtype == made.sin.dtype == np.float32
    for position, pair in ((0, 0), (1, 0), (8191, 0), (8191, 31), (4000, 7)):
        angle = position * 100000.0 ** (-2 * pair / 64)
        assert made.cos[position, pair] == pytest.approx(math.cos(angle), abs=6e-8)
        assert made.sin[position, pair] == pytest.approx(math.sin(angle), abs=6e-8)


def test_linear_scaling_slows_all_pairs_alike() -> None:
    np.testing.assert_allclose(frequencies(Rope(scaling="linear", factor=4), 16) * 4, frequencies(Rope(), 16))


def test_llama3_scaling_slows_long_waves() -> None:
    rope = Rope(500000.0, "llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_len=8192)
    found, regions = frequencies(rope, 128), set()
    for pair in range(64):
        plain = 500000.0 ** (-pair / 64)
        length = 2 * math.pi / plain
        if length < 8192 / 4:
            expected, region = plain, "kept"
        elif length > 8192 / 1:
            expected, region = plain / 8, "slowed"
        else:
            smooth = (8192 / length - 1) / (4 - 1)
            expected, region = (1 - smooth) * plain / 8 + smooth * plain, "between"
        regions.add(region)
        assert found[pair] == pytest.approx(expected, rel=1e-12)
    assert regions == {"kept", "between", "slowed"}


def test_divisors_divide_each_pair() -> None:
    divisors = (1.0, 2.0, 4.0, 8.5)
    found = frequencies(Rope(divisors=divisors), 8)
    assert found.tolist() == (frequencies(Rope(), 8) / np.array(divisors)).tolist()


def test_unknown_scalings_and_wrong_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="rope scaling 'yarn' is not supported; none, linear and llama3 are"):
        frequencies(Rope(scaling="yarn"), 64)
    with pytest.raises(ModelError, match="3 divisors for 4 pairs"):
        frequencies(Rope(divisors=(1.0, 2.0, 3.0)), 8)
    with pytest.raises(ModelError, match=r"low_freq_factor 4.0 is not below 4.0"):
        frequencies(Rope(scaling="llama3", low_freq_factor=4.0, high_freq_factor=4.0), 8)
