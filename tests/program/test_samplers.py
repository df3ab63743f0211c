"""llama.cpp's samplers: sets against plain lists sorted in float64, draws against shares, the native against those."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from draw_cases import ISAS, executor, near_edge, peaked, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.program import samplers, sampling
from octavo.program.batch import EXTRAS, STEPS, Batch
from octavo.program.samplers import Settings, left, packed

LEAST = -np.finfo(np.float32).max
logits_rows = st.lists(st.integers(-40, 40), min_size=1, max_size=40).map(lambda x: np.array(x, np.float32) / 4)
MIROSTATS = {"mirostat", "mirostat_2"}
RANGES = {
    "temperature": (0.0, 0.3, 1.0, 2.5),
    "top_k": (0, 1, 2, 7, 1000),
    "top_p": (1.0, 0.9123, 0.5217, 1e-9),
    "min_p": (0.0, 0.0321, 0.5123, 1.0),
    "typical_p": (1.0, 0.9123, 0.5217, 1e-9),
    "top_n_sigma": (-1.0, 0.0, 0.7123, 1.9321),
    "xtc_probability": (0.0, 0.5, 1.0),
    "xtc_threshold": (0.0, 0.0321, 0.1123, 0.5, 0.6),
    "dynatemp_range": (0.0, 0.5, 3.0),
    "dynatemp_exponent": (1.0, 2.5, 0.3),
    "mirostat_mu": (-1.0, 1.2345, 5.4321, 30.0),
    "xtc_draw": (0.0, 0.4, 0.6),
}
all_settings = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in RANGES.items()})
orders = st.permutations([step for step in STEPS if step not in MIROSTATS]).flatmap(
    lambda order: st.integers(0, len(order)).map(lambda count: list(order[:count]))
) | st.sampled_from([["temperature", "mirostat"], ["temperature", "mirostat_2"], ["mirostat"], ["mirostat_2"]])


def naive_shares(pairs: list[tuple[int, float]]) -> list[float]:
    weights = [math.exp(value - pairs[0][1]) for _, value in pairs]
    return [weight / math.fsum(weights) for weight in weights]


def naive_step(step: str, pairs: list[tuple[int, float]], s: Settings) -> list[tuple[int, float]]:
    """One step over (token, logit), the likeliest first: loops as llama.cpp's. Gives them in any order."""
    p = naive_shares(pairs)
    surprises = [-math.log(share) if share else math.inf for share in p]
    entropy = math.fsum(share * surprise for share, surprise in zip(p, surprises, strict=True) if share)
    if step == "temperature":
        t = s.temperature
        if s.dynatemp_range > 0:
            if len(pairs) == 1:
                return pairs
            low, high = max(0.0, t - s.dynatemp_range), t + s.dynatemp_range
            t = low + (high - low) * (entropy / math.log(len(pairs))) ** s.dynatemp_exponent
        return [(token, value / t) for token, value in pairs] if t > 0 else pairs[:1]
    if step == "top_k":
        return pairs[: s.top_k or None]
    if step == "min_p":
        return [pair for pair, share in zip(pairs, p, strict=True) if share >= s.min_p * p[0]]
    if step == "top_n_sigma":
        mean = math.fsum(value for _, value in pairs) / len(pairs)
        sigma = math.sqrt(math.fsum((value - mean) ** 2 for _, value in pairs) / len(pairs))
        return [pair for pair in pairs if s.top_n_sigma <= 0 or pair[1] >= pairs[0][1] - s.top_n_sigma * sigma]
    if step in ("top_p", "typical_p"):
        wanted, total = getattr(s, step), 0.0
        order = sorted(range(len(p)), key=lambda j: abs(surprises[j] - entropy) if step == "typical_p" else j)
        for count, j in enumerate(order, 1):
            total += p[j]
            if (total > wanted or (step == "top_p" and total == wanted)) and wanted < 1:
                return [pairs[j] for j in order[:count]]
        return pairs
    if step == "xtc":
        likely = sum(share >= s.xtc_threshold for share in p)
        off = s.xtc_draw >= s.xtc_probability or s.xtc_threshold > 0.5
        return pairs if off or likely < 2 else pairs[likely - 1 :]
    if step == "mirostat_2":
        bits = [surprise / math.log(2) for surprise in surprises]
        return [pair for pair, surprise in zip(pairs, bits, strict=True) if surprise <= s.mirostat_mu] or pairs[:1]
    top = pairs[:100]
    ratios = [math.log((i + 2) / (i + 1)) for i in range(len(top) - 1)]
    falls = [a[1] - b[1] for a, b in itertools.pairwise(top)]
    with np.errstate(all="ignore"):
        slope = np.float64(math.fsum(t * b for t, b in zip(ratios, falls, strict=True)))
        slope /= np.float64(math.fsum(t * t for t in ratios))
        k = ((slope - 1) * 2**s.mirostat_mu / (1 - s.vocab ** (1 - slope))) ** (1 / slope)
    return pairs[: int(min(k, len(pairs))) if k >= 1 else 1]


def naive_left(x: np.ndarray, order: list[str], s: Settings) -> dict[int, float]:
    pairs = [(token, float(value)) for token, value in enumerate(x.tolist()) if value > LEAST]
    for step in order:
        pairs = naive_step(step, sorted(pairs, key=lambda pair: (-pair[1], pair[0])), s)
    return dict(sorted(pairs))


def test_steps_are_packed_and_unpacked() -> None:
    for order in (["xtc"], ["temperature", "mirostat_2"], list(STEPS)):
        assert samplers.unpacked(packed(order)) == order
    assert packed([]) == 0


@settings(max_examples=600, deadline=None)
@given(x=logits_rows, values=all_settings, order=orders, banned=st.integers(0, 3))
def test_what_is_left_equals_lists_sorted_in_float64(
    x: np.ndarray, values: dict[str, float], order: list[str], banned: int
) -> None:
    x[1 : 1 + banned] = LEAST
    s = Settings(vocab=len(x), **values)  # type: ignore[arg-type]
    ids, logits = left(x, packed(order), s)
    want = naive_left(x, order, s)
    assert ids.tolist() == list(want)
    np.testing.assert_allclose(logits, list(want.values()), rtol=1e-9)


def extras(rng: np.random.Generator, count: int) -> np.ndarray:
    """Of each row the samplers' settings, among them those that do nothing."""
    columns = [
        rng.choice([1.0, 0.95, 0.5, 0.2], count),
        rng.choice([-1.0, 1.0, 2.5], count),
        rng.choice([0.0, 0.5, 1.0], count),
        rng.choice([0.05, 0.1, 0.3], count),
        rng.choice([0.0, 0.4, 2.0], count),
        rng.choice([1.0, 1.5], count),
        rng.uniform(0, 12, count),
    ]
    assert len(columns) == len(EXTRAS)
    return np.stack(columns, axis=1).astype(np.float32)


def stepped(batch: Batch, seed: int = 9) -> Batch:
    """Two of three rows drawn by steps in some order, some after DRY."""
    rng = np.random.default_rng(seed)
    count, vocab = len(batch.head.rows), int(batch.ids.max()) + 1
    steps = np.zeros(count, np.int64)
    for row in np.flatnonzero(rng.random(count) < 0.66):
        plain = [str(step) for step in rng.permutation(STEPS[:-2])][: rng.integers(1, 8)]
        steps[row] = packed(plain if rng.random() < 0.7 else ["temperature", str(rng.choice(STEPS[-2:]))])
    counts = np.where(rng.random(count) < 0.3, 3, 0)
    head = dataclasses.replace(
        batch.head,
        steps=steps,
        extras=extras(rng, count),
        dry_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        dry_ids=np.concatenate([rng.choice(vocab, n, replace=False) for n in counts]).astype(np.int32),
        dry_values=-rng.uniform(0, 9, counts.sum()).astype(np.float32),
    )
    return dataclasses.replace(batch, head=head)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("vocab", "spread"), [(211, 2.0), (5003, 3.0), (5003, 0.01), (49153, 1.5)])
def test_native_rows_draw_what_the_reference_draws(isa: str, vocab: int, spread: float) -> None:
    cpu = executor(peaked(vocab, spread), isa)
    plain = rows_of(vocab, 200)
    batch = stepped(plain)
    logits = cpu.logits(batch)
    want, got = sampling.draw(logits, batch.head), cpu.run(batch)
    by_steps = (batch.head.steps != 0) & (batch.head.target < 0)
    assert by_steps.sum() > 80
    assert np.array_equal(want.tokens[by_steps], got.tokens[by_steps])
    np.testing.assert_allclose(got.surprise, want.surprise, rtol=1e-5, atol=1e-6)
    for row in np.flatnonzero(want.tokens != got.tokens):
        assert near_edge(logits[row], batch.head, row)
    same = (batch.head.steps == 0) & (np.diff(batch.head.dry_starts) == 0)
    assert np.array_equal(cpu.run(plain).tokens[same], got.tokens[same])  # the others of the batch
    assert np.array_equal(cpu.run(plain).top_logprobs, got.top_logprobs)  # what is reported is raw


def test_native_rows_draw_alike_alone_and_among_others() -> None:
    cpu = executor(peaked(5003, 2.0), ISAS[0])
    batch = stepped(rows_of(5003, 40))
    whole, one = cpu.run(batch), batch.head
    for row in np.flatnonzero(one.steps)[:12]:
        cut = {}
        for name in one.__slots__:
            array = getattr(one, name)
            cut[name] = array[row : row + 1] if len(array) == len(one.rows) else array
        for starts, parts in (
            ("history_starts", ["history"]),
            ("bias_starts", ["bias_ids", "bias_values"]),
            ("dry_starts", ["dry_ids", "dry_values"]),
        ):
            first, end = getattr(one, starts)[row : row + 2]
            cut[starts] = np.array([0, end - first], np.int64)
            cut |= {part: getattr(one, part)[first:end].copy() for part in parts}
        alone = cpu.run(dataclasses.replace(batch, head=dataclasses.replace(one, **cut)))
        assert (alone.tokens[0], alone.surprise[0]) == (whole.tokens[row], whole.surprise[row])


DRAWS, ROWS = 100_000, 500
RULES: dict[str, tuple[list[str], dict[str, float]]] = {
    "temperature": ([], {"temperature": 0.8}),
    "top_k": ([], {"top_k": 9}),
    "top_p": ([], {"top_p": 0.8}),
    "min_p": ([], {"min_p": 0.05}),
    "all of these": ([], {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.01}),
    "typical_p": (["typical_p"], {"typical_p": 0.7}),
    "top_n_sigma": (["top_n_sigma"], {"top_n_sigma": 1.2}),
    "xtc, by chance": (["xtc"], {"xtc_probability": 0.4, "xtc_threshold": 0.05}),
    "dynamic temperature": (["temperature"], {"dynatemp_range": 0.7, "dynatemp_exponent": 1.5}),
    "mirostat": (["temperature", "mirostat"], {"mirostat_mu": 3.0}),
    "mirostat 2": (["temperature", "mirostat_2"], {"mirostat_mu": 4.0}),
    "llama.cpp's order": (
        ["top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"],
        {"top_k": 40, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95, "top_n_sigma": 2.5, "xtc_probability": 0.3,
         "temperature": 1.2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_thousand_draws_follow_the_shares(rule: str) -> None:
    """Chi-square, of seeds that are always the same."""
    order, values = RULES[rule]
    cpu = executor(peaked(64, 1.5), ISAS[0])
    batch = rows_of(64, ROWS)
    batch = dataclasses.replace(batch, ids=np.full(ROWS, 5, np.int32))
    columns = {"target": -1, "top": -1, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 7} | values
    none = np.zeros(ROWS + 1, np.int64)
    plain = {name: value for name, value in columns.items() if name not in EXTRAS}
    s = Settings(64, **values)  # type: ignore[arg-type]
    head = dataclasses.replace(
        batch.head,
        **{name: np.full(ROWS, value, getattr(batch.head, name).dtype) for name, value in plain.items()},
        history_starts=none,
        bias_starts=none,
        steps=np.full(ROWS, packed(order), np.int64),
        extras=np.tile(np.array([getattr(s, name) for name in EXTRAS], np.float32), (ROWS, 1)),
    )
    x = cpu.logits(dataclasses.replace(batch, head=head))[0]
    counts = np.zeros(64)
    for first in range(0, DRAWS, ROWS):
        position = np.arange(first, first + ROWS, dtype=np.int64)
        drawn = cpu.run(dataclasses.replace(batch, head=dataclasses.replace(head, position=position)))
        counts += np.bincount(drawn.tokens, minlength=64)
    shares = np.zeros(64)
    for chance, weight in ((0.0, s.xtc_probability), (1.0, 1 - s.xtc_probability)):
        want = naive_left(x, order, dataclasses.replace(s, xtc_draw=chance))
        if not order:
            mask = sampling.kept(x, **{name: values[name] for name in values if name != "temperature"},
                                 temperature=s.temperature)  # fmt: skip
            want = {int(token): float(x[token]) / s.temperature for token in np.flatnonzero(mask)}
        masses = np.exp(np.array(list(want.values())) - max(want.values()))
        shares[list(want)] += weight * masses / masses.sum()
    likely = shares > 0
    assert likely.sum() > 1
    assert not counts[~likely].any()
    expected = shares[likely] * DRAWS
    statistic = ((counts[likely] - expected) ** 2 / expected).sum()
    degrees = likely.sum() - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)
