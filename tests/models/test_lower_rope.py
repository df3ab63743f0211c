"""Rotation tables against their formulas in plain loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from octavo.core.errors import ModelError
from octavo.models.rope import frequencies, slopes, tables
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


def test_dynamic_scaling_raises_theta() -> None:
    theta = 10000.0 * (4 * 4 - 3) ** (16 / 14)
    found = frequencies(Rope(scaling="dynamic", factor=4), 16)
    np.testing.assert_allclose(found, [theta ** (-pair / 8) for pair in range(8)])


def test_yarn_slows_slow_pairs() -> None:
    rope = Rope(10000.0, "yarn", factor=4, original_len=4096)
    found, plain = frequencies(rope, 128), frequencies(Rope(), 128)
    turns = plain * 4096 / (2 * math.pi)
    assert np.allclose(found[turns > 33], plain[turns > 33])
    assert np.allclose(found[turns < 0.9], plain[turns < 0.9] / 4)
    between = found[(turns < 30) & (turns > 1.1)] / plain[(turns < 30) & (turns > 1.1)]
    assert (np.diff(between) < 0).all() and between[0] < 1 and between[-1] > 0.25
    assert tables(rope, 128, 2).cos[0, 0] == pytest.approx(0.1 * math.log(4) + 1)
    assert tables(dataclasses.replace(rope, attention=1.5), 128, 2).cos[0].tolist() == [1.5] * 64


def test_longrope_is_chosen_by_the_longest_sequence() -> None:
    rope = Rope(10000.0, "longrope", factor=8, original_len=64, short=(1.0, 2.0), long=(3.0, 4.0))
    plain = frequencies(Rope(), 4)
    assert frequencies(rope, 4, 64).tolist() == (plain / [1, 2]).tolist()
    assert frequencies(rope, 4, 65).tolist() == (plain / [3, 4]).tolist()
    assert tables(rope, 4, 65).cos[0, 0] == pytest.approx(math.sqrt(1 + math.log(8) / math.log(64)))


def test_dims_that_do_not_turn_stand_still() -> None:
    made = tables(Rope(dims=8), 24, 50)
    assert made.cos.shape == (50, 16)
    assert (made.cos[:, 4:] == 1).all() and (made.sin[:, 4:] == 0).all()
    np.testing.assert_array_equal(made.cos[:, :4], tables(Rope(), 8, 50).cos[:, :4])


def test_slopes_halve_from_head_to_head() -> None:
    assert slopes(8, 8.0).tolist() == [2.0**-i for i in range(1, 9)]
    assert slopes(6, 8.0).tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    assert slopes(2, 4.0).tolist() == [2.0**-2, 2.0**-4]


def test_divisors_divide_each_pair() -> None:
    divisors = (1.0, 2.0, 4.0, 8.5)
    found = frequencies(Rope(divisors=divisors), 8)
    assert found.tolist() == (frequencies(Rope(), 8) / np.array(divisors)).tolist()


def test_unknown_scalings_and_wrong_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="rope scaling 'ntk' is not supported; none, linear, dynamic, llama3, yarn"):
        frequencies(Rope(scaling="ntk"), 64)
    with pytest.raises(ModelError, match="2 long factors for 4 pairs"):
        frequencies(Rope(scaling="longrope", original_len=16, long=(1.0, 2.0)), 8, 17)
    with pytest.raises(ModelError, match="3 divisors for 4 pairs"):
        frequencies(Rope(divisors=(1.0, 2.0, 3.0)), 8)
    with pytest.raises(ModelError, match=r"low_freq_factor 4.0 is not below 4.0"):
        frequencies(Rope(scaling="llama3", low_freq_factor=4.0, high_freq_factor=4.0), 8)
