"""Drawing: known answers of the generator, sets and choices against naive lists, the shape of what is reported."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import VOCAB, head_rows

from octavo.program import sampling
from octavo.program.batch import HeadRows

logits_rows = st.lists(st.integers(-20, 20), min_size=1, max_size=40).map(lambda x: np.array(x, np.float32) / 4)


def plain_rows(count: int, **columns: object) -> HeadRows:
    """Rows that draw at temperature 1 from everything, but for the given columns."""
    zeros, ones, none = np.zeros(count, np.int32), np.ones(count, np.float32), np.zeros(0, np.int32)
    plain = HeadRows(
        rows=zeros,
        target=zeros - 1,
        top=zeros - 1,
        temperature=ones,
        top_k=zeros,
        top_p=ones,
        min_p=0 * ones,
        presence=0 * ones,
        frequency=0 * ones,
        repetition=ones,
        seed=zeros.astype(np.uint64),
        position=zeros.astype(np.int64),
        history_starts=np.zeros(count + 1, np.int64),
        history=none,
        prompt_lens=zeros,
        bias_starts=np.zeros(count + 1, np.int64),
        bias_ids=none,
        bias_values=none.astype(np.float32),
    )
    given = {name: np.asarray(value, getattr(plain, name).dtype) for name, value in columns.items()}
    return dataclasses.replace(plain, **{name: np.atleast_1d(value) for name, value in given.items()})


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ("00000000 00000000", "00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff", "ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("a4093822 299f31d0", "243f6a88 85a308d3 13198a2e 03707344", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(key: str, counter: str, words: str) -> None:
    def parse(text: str) -> tuple[int, ...]:
        return tuple(int(word, 16) for word in text.split())

    assert sampling.philox4x32(parse(key), parse(counter)) == parse(words)


def test_seed_and_position_are_split_into_words_low_first() -> None:
    seed, position = 0x299F31D0_A4093822, 0x05A308D3_243F6A88
    expected = sampling.philox4x32((0xA4093822, 0x299F31D0), (0x243F6A88, 0x05A308D3, 0, 0))
    assert sampling.philox(seed, position) == expected
    assert sampling.uniform(seed, position) == (expected[0] >> 8) / 2**24


def test_uniform_is_exact_in_float32_and_evenly_spread() -> None:
    drawn = [sampling.uniform(seed, position) for seed in range(20) for position in range(500)]
    assert all(0 <= u < 1 and float(np.float32(u)) == u for u in drawn)
    assert len(set(drawn)) > 9_990  # 24 bits: few meet
    counts = np.bincount((np.array(drawn) * 100).astype(int), minlength=100)
    assert ((counts - 100) ** 2 / 100).sum() < 99 + 4 * math.sqrt(2 * 99)


def naive_kept(x: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """The rule in words: sort, cut, cut, cut."""
    ranked = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if temperature == 0:
        return {ranked[0]}
    weight = {token: math.exp((float(x[token]) - float(x[ranked[0]])) / temperature) for token in ranked}
    left = [token for token in ranked if weight[token] >= min_p * weight[ranked[0]]]
    left = left[: top_k or len(left)]
    total, out, share = math.fsum(weight[token] for token in left), set(), 0.0
    for token in left:
        out.add(token)
        share += weight[token] / total
        if share >= top_p and top_p < 1:
            break
    return out


@settings(max_examples=300, deadline=None)
@given(
    x=logits_rows,
    temperature=st.sampled_from([0, 0.01, 0.3, 1, 2.5, 100]),
    top_k=st.sampled_from([0, 1, 2, 7, 1000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9123, 0.5217, 0.1111, 1e-9]),
    min_p=st.sampled_from([0.0, 1e-6, 0.0321, 0.5123, 1.0]),
)
def test_kept_sets_equal_naive_ones(x: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    mask = sampling.kept(x, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert set(np.flatnonzero(mask).tolist()) == naive_kept(x, temperature, top_k, top_p, min_p)


@settings(max_examples=100, deadline=None)
@given(x=logits_rows, temperature=st.sampled_from([0.01, 0.7, 3.0]), u=st.floats(0, 1, exclude_max=True))
def test_chosen_token_is_the_first_whose_share_exceeds_u(x: np.ndarray, temperature: float, u: float) -> None:
    distribution = sampling.probabilities(x, temperature=temperature, top_k=5, top_p=0.9)
    assert distribution.sum() == pytest.approx(1)
    chosen = sampling.choose(distribution, u)
    assert distribution[chosen] > 0
    assert distribution[:chosen].sum() <= u + 1e-9
    assert distribution[: chosen + 1].sum() >= u - 1e-9


def test_a_sum_that_ends_short_of_u_gives_the_last_possible_token() -> None:
    assert sampling.choose(np.array([0.25, 0.5, 0.2499999, 0.0]), 1 - 2.0**-24) == 2


def test_ties_go_to_the_lowest_id() -> None:
    x = np.array([1, 3, 3, 2, 3], np.float32)
    assert sampling.token(x, plain_rows(1, temperature=0), 0)[0] == 1
    assert np.flatnonzero(sampling.kept(x, temperature=1, top_k=2)).tolist() == [1, 2]
    assert np.flatnonzero(sampling.kept(x, temperature=1, top_k=4)).tolist() == [1, 2, 3, 4]
    drawn = sampling.draw(x[None], plain_rows(1, temperature=0, top=3))
    assert drawn.top_ids.tolist() == [[1, 2, 4]]
    assert drawn.ranks.tolist() == [1]


def test_draws_follow_the_distribution() -> None:
    x = np.random.default_rng(3).normal(0, 2, 50).astype(np.float32)
    count = 20_000
    for rules in ({}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 20, "top_p": 0.9, "min_p": 0.01}):
        expected = sampling.probabilities(x, temperature=0.8, **rules)
        drawn = [sampling.choose(expected, sampling.uniform(11, position)) for position in range(count)]
        counts = np.bincount(drawn, minlength=len(x))
        possible = expected * count >= 5
        assert counts[expected == 0].sum() == 0
        pooled = [*zip(counts[possible], expected[possible] * count, strict=True)]
        rest = (counts[~possible].sum(), expected[~possible].sum() * count)
        statistic = sum((c - e) ** 2 / e for c, e in [*pooled, rest] if e > 0)
        freedom = len(pooled)
        assert statistic < freedom + 4 * math.sqrt(2 * freedom), rules


def test_bias_comes_before_penalties_and_penalties_count_history() -> None:
    logits = np.array([1, -1, 2, 0.5, 0, 3], np.float32)
    head = plain_rows(
        2,
        repetition=[2, 1],
        frequency=[0.5, 0],
        presence=[0.25, 0],
        history_starts=[0, 6, 6],
        history=[0, 1, 2, 2, 2, 1],  # the prompt is 0, 1, 2
        prompt_lens=[3, 0],
        bias_starts=[0, 2, 3],
        bias_ids=[0, 5, 3],
        bias_values=[-3, 1.5, 7],
    )
    first = [(1 - 3) * 2, -1 * 2 - 0.5 - 0.25, 2 / 2 - 2 * 0.5 - 0.25, 0.5, 0, 3 + 1.5]
    assert sampling.adjusted(logits, head, 0).tolist() == first
    assert sampling.adjusted(logits, head, 1).tolist() == [1, -1, 2, 7.5, 0, 3]
    assert logits.tolist() == [1, -1, 2, 0.5, 0, 3]


def test_extreme_settings_stay_finite() -> None:
    logits = np.array([90, -90, 0, 1], np.float32)
    head = plain_rows(1, repetition=1e-45, temperature=1e-5, history_starts=[0, 3], history=[0, 1, 2])
    assert np.isfinite(sampling.adjusted(logits, head, 0)).all()
    assert sampling.token(logits, head, 0)[0] == 0
    tiny = sampling.probabilities(logits, temperature=1e-30)
    assert tiny.tolist() == [1, 0, 0, 0]


def test_report_of_logprobs_ranks_alternatives_targets_and_bad_rows() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 30)).astype(np.float32)
    logits[4, 7] = np.nan
    logits[5, 0] = -np.inf
    head = plain_rows(6, temperature=[0] * 6, target=[-1, 12, 3, -1, -1, 9], top=[2, 40, -1, 0, 5, 5])
    drawn = sampling.draw(logits, head)
    assert drawn.bad.tolist() == [0, 0, 0, 0, 1, 1]
    assert drawn.tokens[:4].tolist() == [logits[0].argmax(), 12, 3, logits[3].argmax()]
    assert drawn.top_ids.shape == drawn.top_logprobs.shape == (6, 40)
    wide = np.exp(logits[:4].astype(np.float64))
    logprobs = np.log(wide / wide.sum(axis=1, keepdims=True))
    for row, count in ((0, 2), (1, 30), (2, 0), (3, 0)):
        order = np.argsort(-logits[row])[:count]
        assert drawn.top_ids[row].tolist() == order.tolist() + [-1] * (40 - count)
        np.testing.assert_allclose(drawn.top_logprobs[row, :count], logprobs[row, order], rtol=1e-6)
        assert not drawn.top_logprobs[row, count:].any()
    np.testing.assert_allclose(
        drawn.logprobs[:4], [logprobs[0].max(), logprobs[1, 12], 0, logprobs[3].max()], rtol=1e-6
    )
    assert drawn.ranks[:4].tolist() == [1, 1 + (logits[1] > logits[1, 12]).sum(), 0, 1]


def test_no_alternatives_wanted_gives_empty_columns() -> None:
    drawn = sampling.draw(np.zeros((2, 5), np.float32), plain_rows(2, temperature=[0, 0]))
    assert drawn.top_ids.shape == (2, 0)
    assert sampling.draw(np.zeros((0, 5), np.float32), plain_rows(0)).tokens.shape == (0,)


def one_row(head: HeadRows, row: int) -> HeadRows:
    """The same request alone."""
    history = slice(head.history_starts[row], head.history_starts[row + 1])
    biases = slice(head.bias_starts[row], head.bias_starts[row + 1])
    cut = {f.name: getattr(head, f.name)[row : row + 1] for f in dataclasses.fields(head)}
    cut |= {
        "history": head.history[history],
        "bias_ids": head.bias_ids[biases],
        "bias_values": head.bias_values[biases],
    }
    cut["history_starts"] = np.array([0, len(cut["history"])])
    cut["bias_starts"] = np.array([0, len(cut["bias_ids"])])
    return HeadRows(**cut)


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (64, VOCAB)).astype(np.float32)
    head = head_rows(rng, np.arange(64), rng.integers(0, 2**40, 64))
    together = sampling.draw(logits, head)
    for row in range(64):
        alone = sampling.draw(logits[row : row + 1], one_row(head, row))
        count = alone.top_ids.shape[1]
        assert (alone.tokens[0], alone.logprobs[0], alone.ranks[0]) == (
            together.tokens[row],
            together.logprobs[row],
            together.ranks[row],
        )
        assert alone.top_ids[0].tolist() == together.top_ids[row, :count].tolist()
