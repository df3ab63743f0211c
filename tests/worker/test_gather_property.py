"""The vectorized gather against a slow, obvious one that knows requests and tokens but no slots."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.core.layout import pages_for
from octavo.core.plan import Plan, Run, Start
from octavo.core.request import Request, SamplingParams
from octavo.program.batch import EXTRAS
from octavo.program.samplers import unpacked
from octavo.worker.dry import Dry
from octavo.worker.gather import gather
from octavo.worker.slots import Slots

VOCAB, MAX_LEN, ROWS = 50, 128, 8


@dataclass
class Case:
    """One sequence of the step: what the scheduler would say of it."""

    slot: int
    request: Request
    tokens: list[int]
    first: int
    count: int

    @property
    def sample(self) -> bool:
        return self.first + self.count == len(self.tokens)


@st.composite
def samplings(draw) -> SamplingParams:
    plain = st.sampled_from([0.0, 0.0, 0.5, -1.0])
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1e-6, 0.7, 1.0])),
        top_k=draw(st.sampled_from([-1, 0, 5])),
        top_p=draw(st.sampled_from([1.0, 0.5])),
        min_p=draw(st.sampled_from([0.0, 0.1])),
        presence_penalty=draw(plain),
        frequency_penalty=draw(plain),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        repeat_last_n=draw(st.sampled_from([-1, -1, 0, 3, 70])),
        typical_p=draw(st.sampled_from([1.0, 1.0, 0.5])),
        mirostat=draw(st.sampled_from([0, 0, 0, 2])),
        samplers=draw(st.sampled_from([None, None, ["dry", "xtc"], ["penalties", "top_k", "temperature"]])),
        dry_multiplier=draw(st.sampled_from([0.0, 0.0, 0.8])),
        logit_bias=draw(st.none() | st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5, width=32), max_size=4)),
        stop_token_ids=draw(st.none() | st.lists(st.integers(0, VOCAB - 1), max_size=3)),
        ignore_eos=draw(st.booleans()),
        min_tokens=draw(st.sampled_from([0, 0, 1, 4, 2**31 - 1])),
        max_tokens=None,
        logprobs=draw(st.none() | st.integers(0, 3)),
        prompt_logprobs=draw(st.none() | st.integers(0, 3)),
        logprob_token_ids=draw(st.none() | st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3, unique=True)),
    )


def words(generated: list[int]) -> st.SearchStrategy[list[list[int]]]:
    """Forbidden sequences of tokens, of which some begin as what was generated ends."""
    token = st.integers(0, VOCAB - 1)
    begun = st.builds(lambda count, last: [*generated[len(generated) - count :], last], st.integers(0, 7), token)
    return st.lists(begun | st.lists(token, min_size=1, max_size=3), max_size=3)


@st.composite
def steps(draw) -> list[Case]:
    cases = []
    for slot in draw(st.permutations(range(ROWS)))[: draw(st.integers(1, ROWS))]:
        prompt = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=70))
        generated = draw(st.lists(st.integers(0, VOCAB - 1), max_size=6))
        request = Request(
            id=str(slot),
            prompt=prompt,
            sampling=draw(samplings()),
            eos_ids=draw(st.lists(st.integers(0, VOCAB + 5), max_size=2)),
            seed=draw(st.sampled_from([0, 7, -1, 2**62])),
            bad_words=draw(words(generated)),
            dry_breakers=[[1], [2, 3]],
        )
        tokens = prompt + generated
        first = draw(st.integers(0, len(tokens) - 1))
        cases.append(Case(slot, request, tokens, first, draw(st.integers(1, len(tokens) - first))))
    return cases


def plan_of(cases: list[Case]) -> Plan:
    """Each sequence starts in this step; page ids are slot * 100 + place."""
    starts, runs = [], []
    for case in cases:
        blocks = tuple(case.slot * 100 + place for place in range(pages_for(case.first + case.count)))
        starts.append(Start(case.slot, case.request, tuple(case.tokens)))
        runs.append(Run(case.slot, case.first, case.count, blocks, case.sample))
    return Plan(0, (), tuple(starts), tuple(runs))


def expected_bias(case: Case, position: int) -> dict[int, float]:
    sampling = case.request.sampling
    bias = {token: float(np.float32(value)) for token, value in (sampling.logit_bias or {}).items()}
    if position - len(case.request.prompt) < sampling.min_tokens:
        ends = list(sampling.stop_token_ids or [])
        ends += [] if sampling.ignore_eos else case.request.eos_ids
        bias.update({token: -math.inf for token in ends if token < VOCAB})
    generated = case.tokens[len(case.request.prompt) : position]
    for word in case.request.bad_words:
        if word[:-1] == generated[max(0, len(generated) - len(word) + 1) :] or len(word) == 1:
            bias[word[-1]] = -math.inf
    return bias


@settings(max_examples=80, deadline=None)
@given(steps())
def test_gather_equals_the_slow_one(cases):
    plan, slots = plan_of(cases), Slots(ROWS, MAX_LEN, VOCAB)
    for start in plan.starts:
        slots.start(start)
    for run in plan.runs:
        slots.append_pages(run.slot, run.blocks)
    got = gather(plan, slots)
    batch, head = got.batch, got.batch.head

    row = index = 0
    for number, case in enumerate(cases):
        sampling, prompt_len = case.request.sampling, len(case.request.prompt)
        assert batch.starts[number : number + 2].tolist() == [row, row + case.count]
        assert batch.kv_lens[number] == case.first + case.count
        assert batch.slots[number] == case.slot
        assert got.head_starts[number] == index
        for position in range(case.first, case.first + case.count):
            assert batch.ids[row] == case.tokens[position]
            assert batch.positions[row] == position
            assert batch.tables[case.slot, position // 32] == case.slot * 100 + position // 32
            reported = sampling.prompt_logprobs is not None and position + 1 < prompt_len
            drawn = case.sample and position == len(case.tokens) - 1
            for wanted, target, top in (
                (reported, case.tokens[position + 1] if reported else 0, sampling.prompt_logprobs),
                (drawn, -1, len(sampling.logprob_token_ids) if sampling.logprob_token_ids else sampling.logprobs),
            ):
                if not wanted:
                    continue
                assert head.rows[index] == row
                assert head.target[index] == target
                assert head.top[index] == (-1 if top is None else top)
                assert head.position[index] == position + 1
                check_draw(head, index, case, position + 1, drawn=target < 0)
                assert (index in got.drawn_rows) == (target < 0)
                index += 1
            row += 1
    assert (len(batch.ids), len(head.rows), got.head_starts[-1]) == (row, index, index)
    assert got.drawn_slots.tolist() == [case.slot for case in cases if case.sample]
    assert all(getattr(head, name).shape[0] == index for name in head.__slots__[:12])


def expected_steps(sampling: SamplingParams) -> list[str]:
    if sampling.samplers is None and (
        sampling.temperature < 1e-5 or (sampling.typical_p == 1 and not sampling.mirostat)
    ):
        return []
    if sampling.mirostat:
        return ["temperature", "mirostat_2"]
    if sampling.samplers is None:
        return ["temperature", "top_n_sigma", "min_p", "top_k", "typical_p", "top_p", "xtc"]
    return sampling.samplers[1:]


def check_draw(head, index: int, case: Case, position: int, *, drawn: bool) -> None:
    """What a row is drawn with; a row that reports has neither history nor bias."""
    sampling = case.request.sampling
    assert head.temperature[index] == np.float32(0 if sampling.temperature < 1e-5 else sampling.temperature)
    assert head.top_k[index] == max(sampling.top_k, 0)
    assert head.top_p[index] == np.float32(sampling.top_p)
    assert head.min_p[index] == np.float32(sampling.min_p)
    assert head.seed[index] == case.request.seed % 2**64
    last = sampling.repeat_last_n
    penalized = sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1
    penalized = penalized and last and (not sampling.samplers or "penalties" in sampling.samplers)
    left_out = max(0, position - last) if penalized and drawn and last >= 0 else 0
    if penalized and drawn:
        assert head.prompt_lens[index] == max(0, len(case.request.prompt) - left_out)
    assert head.repetition[index] == np.float32(sampling.repetition_penalty)
    assert head.presence[index] == np.float32(sampling.presence_penalty)
    assert head.frequency[index] == np.float32(sampling.frequency_penalty)
    history = head.history[head.history_starts[index] : head.history_starts[index + 1]].tolist()
    assert history == (case.tokens[left_out:position] if penalized and drawn else [])
    steps = unpacked(int(head.steps[index])) if len(head.steps) else []
    assert steps == expected_steps(sampling)
    if steps:
        assert dict(zip(EXTRAS, head.extras[index], strict=True))["typical_p"] == sampling.typical_p
    dry = head.dry_ids[slice(*head.dry_starts[index : index + 2])] if len(head.dry_starts) else np.zeros(0)
    applies = drawn and sampling.dry_multiplier and (not sampling.samplers or "dry" in sampling.samplers)
    tokens = np.array(case.tokens[:position], np.int32)
    assert dry.tolist() == (Dry(sampling, [[1], [2, 3]]).penalties(tokens)[0].tolist() if applies else [])
    named = head.named[slice(*head.named_starts[index : index + 2])].tolist() if len(head.named_starts) else []
    assert named == ((sampling.logprob_token_ids or []) if drawn else [])
    part = slice(head.bias_starts[index], head.bias_starts[index + 1])
    ids, values = head.bias_ids[part].tolist(), head.bias_values[part].tolist()
    assert len(set(ids)) == len(ids)
    assert dict(zip(ids, values, strict=True)) == (expected_bias(case, position) if drawn else {})


def test_arrays_have_the_dtypes_an_executor_reads():
    request = Request(id="a", prompt=[1, 2, 3], sampling=SamplingParams(prompt_logprobs=1, logit_bias={3: 1.0}))
    slots = Slots(2, 64, VOCAB)
    slots.start(Start(1, request, (1, 2, 3)))
    slots.append_pages(1, (5,))
    batch = gather(Plan(0, (), (), (Run(1, 0, 3, (5,), True),)), slots).batch
    wide = {"position", "history_starts", "bias_starts", "dry_starts", "named_starts", "steps"}
    floats = {
        "dry_values",
        "extras",
        "temperature",
        "top_p",
        "min_p",
        "presence",
        "frequency",
        "repetition",
        "bias_values",
    }
    for part in (batch, batch.head):
        for name in part.__slots__:
            array = getattr(part, name)
            if name in ("head", "types"):
                continue
            kind = (
                np.int64
                if name in wide
                else np.uint64
                if name == "seed"
                else np.float32
                if name in floats
                else np.int32
            )
            assert array.dtype == kind, name
            assert array.flags.c_contiguous, name


def test_a_slot_taken_again_keeps_nothing_of_its_last_sequence():
    old = SamplingParams(
        temperature=0.5,
        top_k=3,
        logit_bias={1: 2.0},
        min_tokens=4,
        logprobs=2,
        prompt_logprobs=2,
        presence_penalty=1.0,
    )
    slots = Slots(1, 64, VOCAB)
    slots.start(Start(0, Request(id="a", prompt=[1] * 40, sampling=old, eos_ids=[2], bad_words=[[1]]), (1,) * 40))
    slots.append_pages(0, (3, 4))
    slots.free(0)
    fresh, used = Slots(1, 64, VOCAB), slots
    start = Start(0, Request(id="b", prompt=[7, 8], sampling=SamplingParams(temperature=0), seed=3), (7, 8))
    plan = Plan(0, (0,), (start,), (Run(0, 0, 2, (9,), True),))
    for each in (fresh, used):
        each.start(start)
        each.append_pages(0, (9,))
    for name in fresh.__dict__:
        a, b = getattr(fresh, name), getattr(used, name)
        if name in ("tokens", "tables"):
            a, b = a[0, : 2 if name == "tokens" else 1], b[0, : 2 if name == "tokens" else 1]
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name
    assert gather(plan, used).batch.head.bias_ids.size == 0


@settings(max_examples=80, deadline=None)
@given(steps(), st.data())
def test_a_slot_filled_anew_is_drawn_from_as_its_new_sequence_asks(cases, data):
    slots = Slots(ROWS, MAX_LEN, VOCAB)
    for _ in range(2):  # the same slots in the same order, with other settings
        plan = plan_of(cases)
        for start in plan.starts:
            slots.start(start)
        head = gather(plan, slots).batch.head
        alone = [gather(Plan(0, (), (), (run,)), slots).batch.head for run in plan.runs]
        for name in ("top", "temperature", "top_k", "top_p", "min_p", "presence", "repetition", "seed", "prompt_lens"):
            assert getattr(head, name).tolist() == [value for one in alone for value in getattr(one, name).tolist()]
        asked = [case.request.sampling.top_p for case in cases if case.sample]
        drawn = [float(top_p) for top_p, target in zip(head.top_p, head.target, strict=True) if target < 0]
        assert drawn == asked
        for case in cases:
            sampling = data.draw(samplings())
            case.request = Request(id=case.request.id, prompt=case.request.prompt, sampling=sampling)
