"""The scheduler's rules, one by one. Whole lives under load are in test_scheduler_simulation.py."""

import random

import pytest
from msgspec import structs

from octavo.cache.pool import BlockPool
from octavo.core.config import SchedulerConfig
from octavo.core.errors import InvalidValue, QueueFull
from octavo.core.layout import PAGE
from octavo.core.plan import Output, Plan, RunResult, StepResult, TokenLogprob
from octavo.core.request import Request, SamplingParams
from octavo.sched.scheduler import Scheduler

EOS = 2


def scheduler(pages: int = 64, prefix_cache: bool = True, windows: tuple[int, ...] = (0,), **config) -> Scheduler:
    return Scheduler(SchedulerConfig(**config), BlockPool(pages, prefix_cache), windows=windows)


def request(name: str, length: int, first: int = 100, priority: int = 0, **sampling) -> Request:
    """A prompt of consecutive ids, equal for equal `first`."""
    prompt = list(range(first, first + length))
    return Request(id=name, prompt=prompt, sampling=SamplingParams(**sampling), eos_ids=[EOS], priority=priority)


def answer(plan: Plan, *tokens: int) -> StepResult:
    """Each sampled run draws these tokens."""
    return StepResult([RunResult(tokens if run.sample else ()) for run in plan.runs])


def step(sched: Scheduler, *tokens: int) -> tuple[Plan, list[Output]]:
    plan = sched.plan()
    assert plan is not None
    outputs = sched.commit(plan, answer(plan, *(tokens or (7,))))
    sched.check()
    return plan, outputs


def finish(sched: Scheduler, *tokens: int) -> dict[str, Output]:
    """Run until nothing is left; the final output of each."""
    finals = {}
    while sched.has_work:
        finals |= {output.id: output for output in step(sched, *tokens)[1] if output.finish}
    return finals


def counts(plan: Plan) -> dict[int, int]:
    return {run.slot: run.count for run in plan.runs}


# The budget


def test_a_prompt_is_computed_in_chunks_and_takes_pages_as_it_goes():
    sched = scheduler(max_seqs=1, max_step_tokens=50)
    sched.add(request("a", 120, max_tokens=3))
    plan, outputs = step(sched)
    assert plan.starts[0].tokens == tuple(range(100, 220))
    assert [(r.first, r.count, len(r.blocks), r.sample) for r in plan.runs] == [(0, 50, 2, False)]
    assert outputs == []
    assert sched.stats().slack_tokens == 14
    plan, outputs = step(sched)
    assert [(r.first, r.count, len(r.blocks), r.sample) for r in plan.runs] == [(50, 50, 2, False)]
    plan, outputs = step(sched)
    assert [(r.first, r.count, len(r.blocks), r.sample) for r in plan.runs] == [(100, 20, 0, True)]
    assert outputs == [Output(id="a", tokens=[7])]
    plan, outputs = step(sched)
    assert [(r.first, r.count, len(r.blocks), r.sample) for r in plan.runs] == [(120, 1, 0, True)]
    assert plan.starts == ()


def test_decodes_come_first_then_half_for_the_eldest_then_the_shortest():
    sched = scheduler(max_seqs=5, max_step_tokens=40)
    sched.add(request("long", 100, first=1000, max_tokens=9))
    assert counts(step(sched)[0]) == {0: 40}
    sched.add(request("short", 10, first=2000, max_tokens=9))
    assert counts(step(sched)[0]) == {0: 30, 1: 10}
    sched.add(request("next", 90, first=3000, max_tokens=9))
    assert counts(step(sched)[0]) == {0: 30, 1: 1, 2: 9}
    sched.add(request("small", 30, first=4000, max_tokens=9))
    plan, _ = step(sched)
    assert counts(plan) == {0: 1, 1: 1, 2: 19, 3: 19}  # passed by a shorter one
    assert counts(step(sched)[0]) == {0: 1, 1: 1, 2: 27, 3: 11}


def test_equal_prompts_finish_one_after_another():
    sched = scheduler(max_seqs=4, max_step_tokens=64)
    for index, name in enumerate("abcd"):
        sched.add(request(name, 100, first=1000 * (index + 1), max_tokens=20))
    firsts = {}
    while len(firsts) < 4:
        for output in step(sched)[1]:
            firsts.setdefault(output.id, sched.stats().steps)
    assert list(firsts) == list("abcd")
    assert firsts == {"a": 2, "b": 4, "c": 5, "d": 7}


def test_a_shorter_prompt_passes_only_where_there_is_room_for_those_it_passes():
    """Pages for a and c, or for a, b and c: c waits behind b in the first case, and goes first in the second."""
    for pages, started in ((9, []), (10, ["c"])):
        sched = scheduler(pages=pages, max_seqs=4, max_step_tokens=20)
        sched.add(request("a", 100, first=1000, max_tokens=100))  # 4 pages, and 1 to grow
        step(sched)
        sched.add(request("b", 100, first=2000, max_tokens=2))  # 4 pages
        sched.add(request("c", 10, first=3000, max_tokens=2))  # 1 page
        plan, _ = step(sched)
        assert [start.request.id for start in plan.starts] == started
        assert len(finish(sched)) == 3


def test_slots_bound_the_running():
    sched = scheduler(max_seqs=2)
    for name in "abc":
        sched.add(request(name, 5, max_tokens=2))
    step(sched)
    assert (sched.stats().running, sched.stats().waiting) == (2, 1)
    plan, outputs = step(sched)
    assert {output.id for output in outputs if output.finish} == {"a", "b"}
    plan, _ = step(sched)
    assert sorted(plan.frees) == [0, 1]
    assert [start.request.id for start in plan.starts] == ["c"]
    assert plan.starts[0].slot in (0, 1)


def test_frees_wait_for_a_plan():
    sched = scheduler(max_seqs=2)
    assert sched.plan() is None
    sched.add(request("a", 5, max_tokens=1))
    step(sched)
    assert not sched.has_work
    assert sched.plan() is None
    sched.add(request("b", 5, max_tokens=1))
    plan = sched.plan()
    assert plan.frees == (0,)
    assert [start.slot for start in plan.starts] == [0]


def test_steps_are_numbered():
    sched = scheduler()
    sched.add(request("a", 5, max_tokens=3))
    assert [step(sched)[0].step for _ in range(3)] == [0, 1, 2]
    assert sched.stats().steps == 3


def test_a_plan_is_committed_once_and_before_the_next():
    sched = scheduler()
    sched.add(request("a", 5, max_tokens=3))
    plan = sched.plan()
    with pytest.raises(AssertionError, match="not committed"):
        sched.plan()
    with pytest.raises(AssertionError):
        sched.commit(plan, StepResult([]))
    sched.commit(plan, answer(plan, 7))
    with pytest.raises(AssertionError, match="not the plan"):
        sched.commit(plan, answer(plan, 7))


# What is accepted


@pytest.mark.parametrize(
    ("settings", "length"), [({"max_len": 40}, 40), ({"max_len": 40}, 400), ({"pages": 2, "max_len": 8192}, 64)]
)
def test_a_prompt_that_leaves_no_room_is_refused(settings, length):
    sched = scheduler(**settings)
    with pytest.raises(InvalidValue, match=f"{length} tokens") as caught:
        sched.add(request("a", length))
    assert caught.value.field == "prompt"
    assert str(sched.longest - 1) in str(caught.value)
    assert not sched.has_work
    sched.add(request("a", sched.longest - 1))
    assert finish(sched)["a"].tokens == [7]


def test_empty_prompts_and_ids_in_use_are_refused():
    sched = scheduler()
    with pytest.raises(InvalidValue, match="at least one token"):
        sched.add(request("a", 0))
    sched.add(request("a", 5))
    with pytest.raises(InvalidValue, match="in flight") as caught:
        sched.add(request("a", 6))
    assert caught.value.field == "id"
    assert len(finish(sched)) == 1
    sched.add(request("a", 5))
    assert len(finish(sched)) == 1


def test_min_tokens_beyond_the_room_are_refused():
    sched = scheduler(max_len=20)
    with pytest.raises(InvalidValue, match="at most 10 fit") as caught:
        sched.add(request("a", 10, min_tokens=11, max_tokens=None))
    assert caught.value.field == "min_tokens"
    sched.add(request("a", 10, min_tokens=10, max_tokens=None))
    assert finish(sched, EOS)["a"].finish == "stop"


def test_the_queue_is_bounded_and_free_slots_do_not_count():
    sched = scheduler(max_seqs=2, max_queued=1)
    for name in "abc":
        sched.add(request(name, 5, max_tokens=4))
    with pytest.raises(QueueFull, match="3 requests wait already; at most 1"):
        sched.add(request("d", 5))
    step(sched)
    with pytest.raises(QueueFull):
        sched.add(request("d", 5))
    sched.abort("c")
    sched.add(request("d", 5))
    assert set(finish(sched)) == {"a", "b", "d"}


def test_without_a_queue_requests_are_still_accepted_while_they_fit():
    sched = scheduler(max_seqs=3, max_queued=0, pages=4)
    sched.add(request("a", 60, max_tokens=8))
    step(sched)
    sched.add(request("b", 60, first=900, max_tokens=8))
    step(sched)
    assert sched.stats().waiting == 1  # no pages: nothing else is accepted though slots are free
    with pytest.raises(QueueFull):
        sched.add(request("c", 5))
    finish(sched)
    for name in "cde":
        sched.add(request(name, 5))
    with pytest.raises(QueueFull):
        sched.add(request("f", 5))
    assert set(finish(sched)) == {"c", "d", "e"}


# How sequences end


@pytest.mark.parametrize(
    ("token", "sampling", "finish_reason", "stop_reason", "length"),
    [
        (EOS, {}, "stop", None, 1),
        (EOS, {"min_tokens": 3}, "stop", None, 3),
        (EOS, {"ignore_eos": True}, "length", None, 5),
        (EOS, {"ignore_eos": True, "stop_token_ids": [EOS]}, "stop", EOS, 1),
        (EOS, {"stop_token_ids": [EOS]}, "stop", None, 1),
        (9, {"stop_token_ids": [8, 9]}, "stop", 9, 1),
        (9, {"stop_token_ids": [9], "min_tokens": 2}, "stop", 9, 2),
        (9, {"stop_token_ids": [9], "min_tokens": 5}, "stop", 9, 5),
        (9, {"stop_token_ids": [8]}, "length", None, 5),
        (9, {}, "length", None, 5),
    ],
)
def test_ends(token, sampling, finish_reason, stop_reason, length):
    sched = scheduler()
    sched.add(request("a", 5, max_tokens=5, **sampling))
    outputs = []
    while sched.has_work:
        outputs += step(sched, token)[1]
    assert [token for output in outputs for token in output.tokens] == [token] * length
    assert [output.finish for output in outputs] == [None] * (length - 1) + [finish_reason]
    assert outputs[-1].stop_reason == stop_reason
    assert sched.stats().finished == {finish_reason: 1}


@pytest.mark.parametrize("settings", [{"max_len": 64}, {"pages": 2}])
@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_an_answer_ends_where_the_room_ends(settings, max_tokens):
    sched = scheduler(**settings)
    sched.add(request("a", 60, max_tokens=max_tokens))
    tokens = []
    while sched.has_work:
        outputs = step(sched)[1]
        tokens += [token for output in outputs for token in output.tokens]
    assert len(tokens) == 4
    assert outputs[-1].finish == "length"


def test_tokens_behind_the_end_are_dropped():
    """A run may give several tokens, when drafts were accepted."""
    sched = scheduler()
    sched.add(request("a", 5, logprobs=0))
    plan = sched.plan()
    drawn = (7, EOS, 8)
    logprobs = tuple(TokenLogprob(token, -1.0, 1) for token in drawn)
    (output,) = sched.commit(plan, StepResult([RunResult(drawn, logprobs)]))
    assert output.tokens == [7, EOS]
    assert [logprob.token for logprob in output.logprobs] == [7, EOS]
    assert output.finish == "stop"
    assert sched.stats().generated_tokens == 2


def test_a_failed_run_ends_its_sequence_alone_and_its_pages_are_not_found():
    sched = scheduler(max_seqs=2, max_step_tokens=100)
    sched.add(request("bad", 150, first=5000))
    sched.add(request("good", 10))
    step(sched)
    assert sched.stats().pages_held == 4
    plan = sched.plan()
    results = [RunResult(failed="NaN")] + [RunResult((7,))] * (len(plan.runs) - 1)
    outputs = sched.commit(plan, StepResult(results))
    sched.check()
    assert outputs == [Output(id="bad", finish="error", error="NaN"), Output(id="good", tokens=[7])]
    assert sched.stats().pages_cached == 0
    sched.add(request("again", 150, first=5000, max_tokens=1))
    assert finish(sched)["again"].cached == 0


# Aborts


def test_abort_in_every_state_gives_everything_back_at_once():
    def state(name: str) -> Scheduler:
        sched = scheduler(max_seqs=2, max_step_tokens=50, pages=7)
        sched.add(request("first", 64, max_tokens=100, ignore_eos=True))
        sched.add(request("a", 70, first=9000, max_tokens=100))
        if name == "waiting":
            return sched
        while True:
            step(sched)
            stats = sched.stats()
            prefill = stats.running == 2 and stats.generated_tokens == 1
            decode = stats.running == 2 and stats.generated_tokens > 4
            preempted = stats.preemptions > 0
            if {"prefill": prefill, "decode": decode, "preempted": preempted}[name]:
                return sched

    for name in ("waiting", "prefill", "decode", "preempted"):
        sched = state(name)
        assert sched.abort("a") == Output(id="a", finish="abort")
        sched.check()
        assert sched.abort("a") is None
        assert sched.abort("never") is None
        assert set(finish(sched)) == {"first"}, name
        assert sched.stats().pages_held == 0
        assert sched.stats().finished == {"abort": 1, "length": 1}


def test_abort_while_the_step_runs():
    sched = scheduler(max_seqs=2)
    sched.add(request("a", 40))
    sched.add(request("b", 40, first=700))
    plan = sched.plan()
    assert sched.abort("a").finish == "abort"
    outputs = sched.commit(plan, answer(plan, 7))
    sched.check()
    assert [output.id for output in outputs] == ["b"]
    plan, _ = step(sched)
    assert plan.frees == (0,)
    assert [run.slot for run in plan.runs] == [1]


# The prefix cache


def test_a_known_prefix_is_not_computed_again():
    sched = scheduler()
    sched.add(request("a", 100, max_tokens=1))
    finish(sched)
    sched.add(request("b", 100, max_tokens=1))
    plan, outputs = step(sched)
    assert [(run.first, run.count, len(run.blocks)) for run in plan.runs] == [(99, 1, 4)]
    assert outputs[0].cached == 99
    stats = sched.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (200, 99)
    assert (stats.prompt_tokens, stats.generated_tokens) == (200, 2)


def test_one_token_is_always_left_to_compute():
    sched = scheduler()
    for name, cached in (("a", 0), ("b", 63), ("c", 63)):
        sched.add(request(name, 64, max_tokens=1))
        assert finish(sched)[name].cached == cached


def test_generated_pages_are_found_by_the_next_turn():
    sched = scheduler()
    sched.add(request("a", 20, first=0, max_tokens=45, ignore_eos=True))
    finish(sched)
    turn = Request(id="b", prompt=[*range(20), *[7] * 45, 1, 2, 3], sampling=SamplingParams(max_tokens=1))
    sched.add(turn)
    assert finish(sched)["b"].cached == 64


def test_the_next_turn_goes_on_in_a_page_that_nobody_holds():
    """And who shares it then, or less of it than was named, has a copy."""
    sched = scheduler()
    sched.add(request("a", 40, max_tokens=1))
    page = step(sched)[0].runs[0].blocks[1]
    sched.add(request("b", 45, max_tokens=9))
    sched.add(request("c", 50, max_tokens=9))
    sched.add(request("d", 40, max_tokens=9))
    plan, _ = step(sched)
    assert [(run.first, run.count) for run in plan.runs] == [(40, 5), (40, 10), (39, 1)]
    own = [run.blocks[1] for run in plan.runs]
    assert own[0] == page
    assert plan.copies == ((page, own[1]), (page, own[2]))
    finish(sched)
    sched.add(request("e", 42, max_tokens=1))
    plan, outputs = step(sched)
    assert outputs[0].cached == 40
    assert len(plan.copies) == 1


def test_a_page_is_copied_though_it_is_given_to_another_in_the_same_step():
    sched = scheduler(pages=5)
    sched.add(request("a", 20, max_tokens=1))
    step(sched)
    sched.add(request("b", 20, max_tokens=1))  # what "a" named is more than it may use: a copy
    sched.add(request("c", 100, first=500, max_tokens=1))
    plan, outputs = step(sched)
    ((source, copy),) = plan.copies
    assert source in plan.runs[1].blocks and copy in plan.runs[0].blocks
    assert [output.cached for output in outputs] == [19, 0]


@pytest.mark.parametrize("change", [{"salt": "tenant"}, {"adapter": 1}])
def test_salt_and_adapter_keep_prefixes_apart(change):
    sched = scheduler()
    prompt = list(range(100))
    for name, cached, fields in (("a", 0, {}), ("b", 0, change), ("c", 99, change), ("d", 99, {})):
        sched.add(Request(id=name, prompt=prompt, sampling=SamplingParams(max_tokens=1), **fields))
        assert finish(sched)[name].cached == cached


def test_pages_are_shared_while_held():
    """And cost nothing at admission: both fit into five pages, of four each."""
    sched = scheduler(pages=5)
    sched.add(request("a", 100, max_tokens=9))
    step(sched)
    sched.add(request("b", 100, max_tokens=9))
    step(sched)
    assert sched.stats().pages_held == 5
    assert sched.stats().slack_tokens == 2 * PAGE - 5 - 4


def choices(count: int, length: int, **sampling) -> list[Request]:
    made = [request(f"c{number}", length, **sampling) for number in range(count)]
    return [made[0], *(structs.replace(each, after="c0") for each in made[1:])]


def test_choices_wait_for_the_first_to_compute_their_prompt_and_others_pass():
    sched = scheduler(max_seqs=8, max_step_tokens=60)
    for each in (*choices(4, 100, max_tokens=3), request("other", 40, first=500, max_tokens=3)):
        sched.add(each)
    computed, names = {}, {}
    while sched.has_work:
        plan, _ = step(sched)
        for start in plan.starts:
            names[start.slot] = start.request.id
            assert start.request.id in ("c0", "other") or computed["c0"] >= 100
        computed |= {names[run.slot]: run.first + run.count for run in plan.runs}
    stats = sched.stats()
    assert stats.prefix_hits == 3 * 99  # all of the prompt but its last token
    assert stats.finished == {"length": 5}


@pytest.mark.parametrize("how", ["no cache", "prompt logprobs", "aborted"])
def test_choices_do_not_wait_where_nothing_would_be_shared(how):
    sched = scheduler(prefix_cache=how != "no cache")
    for each in choices(3, 100, max_tokens=2, **({"prompt_logprobs": 0} if how == "prompt logprobs" else {})):
        sched.add(each)
    if how == "aborted":
        sched.abort("c0")
    assert len(sched.plan().starts) == (2 if how == "aborted" else 3)


def test_prompt_logprobs_need_every_position():
    sched = scheduler(max_step_tokens=64)
    sched.add(request("a", 100, max_tokens=1))
    finish(sched)
    sched.add(request("b", 100, max_tokens=2, prompt_logprobs=0))
    outputs = []
    while sched.has_work:
        plan = sched.plan()
        results = []
        for run in plan.runs:
            scored = range(run.first + 1, min(run.first + run.count + 1, 100))
            logprobs = tuple(TokenLogprob(100 + position, -1.0, 1) for position in scored)
            results.append(RunResult((7,) if run.sample else (), (), logprobs))
        outputs += sched.commit(plan, StepResult(results))
    assert [len(output.prompt_logprobs) for output in outputs] == [99, 0]
    assert [logprob.token for logprob in outputs[0].prompt_logprobs] == list(range(101, 200))
    assert outputs[0].cached == 0
    assert sched.stats().prefix_queries == 100


def test_who_wants_its_prompt_computed_gets_nothing_of_the_cache_but_gives_to_it():
    sched = scheduler()
    for name, skip in (("a", False), ("b", True), ("c", False)):
        sched.add(request(name, 100, max_tokens=1, skip_reading_prefix_cache=skip))
        assert finish(sched)[name].cached == (99 if name == "c" else 0)
    assert (sched.stats().prefix_queries, sched.stats().prefix_hits) == (200, 99)


def test_without_prefix_cache_nothing_is_found():
    sched = scheduler(prefix_cache=False)
    for name in "ab":
        sched.add(request(name, 100, max_tokens=1))
        assert finish(sched)[name].cached == 0
    assert (sched.stats().prefix_queries, sched.stats().pages_cached) == (0, 0)


# Order and preemption


def test_priority_orders_the_queue():
    sched = scheduler(max_seqs=1, policy="priority")
    for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -5)):
        sched.add(request(name, 5, priority=priority, max_tokens=1))
    assert list(finish(sched)) == ["d", "b", "a", "c"]


def test_priority_means_nothing_under_fcfs():
    sched = scheduler(max_seqs=1)
    for name, priority in (("a", 1), ("b", 0)):
        sched.add(request(name, 5, priority=priority, max_tokens=1))
    assert list(finish(sched)) == ["a", "b"]


@pytest.mark.parametrize(("policy", "victim"), [("fcfs", "b"), ("priority", "a")])
def test_the_last_in_order_is_preempted_and_returns_before_later_ones(policy, victim):
    sched = scheduler(max_seqs=2, pages=6, policy=policy)
    sched.add(request("a", 60, priority=1, max_tokens=60, ignore_eos=True))
    sched.add(request("b", 60, first=900, priority=0, max_tokens=60, ignore_eos=True))
    started: list[str] = []
    while sched.stats().preemptions == 0:
        plan, _ = step(sched)
        started += [start.request.id for start in plan.starts]
    assert plan.starts == ()
    assert len(plan.frees) == 1
    sched.add(request("later", 5, first=400, priority=2, max_tokens=1))
    resumed = None
    while sched.has_work:
        plan, _ = step(sched)
        started += [start.request.id for start in plan.starts]
        resumed = next((start for start in plan.starts if start.request.id == victim), resumed)
    assert started[-2:] == [victim, "later"]
    assert resumed.tokens[60:] == (7,) * (len(resumed.tokens) - 60)
    assert len(resumed.tokens) > 60
    assert sched.stats().finished == {"length": 3}


def test_a_preempted_prompt_starts_its_logprobs_over():
    """Preempted in the middle of its prompt: each position is reported once."""
    sched = scheduler(max_seqs=2, pages=8, max_step_tokens=3)
    sched.add(request("a", 30, max_tokens=200, ignore_eos=True))
    for _ in range(16):
        step(sched)
    sched.add(request("b", 150, first=900, max_tokens=1, prompt_logprobs=0))
    finals = {}
    while sched.has_work:
        plan = sched.plan()
        results = []
        for run in plan.runs:
            scored = run.first + 1, run.first + run.count + 1
            logprobs = tuple(TokenLogprob(900 + at, -1.0, 1) for at in range(*scored) if at < 150)
            results.append(RunResult((7,) if run.sample else (), (), logprobs))
        for output in sched.commit(plan, StepResult(results)):
            finals[output.id] = output
    assert sched.stats().preemptions == 1
    assert [logprob.token for logprob in finals["b"].prompt_logprobs] == list(range(901, 1050))


def test_hits_are_those_of_the_first_admission():
    """What a preempted sequence finds of itself is no hit."""
    sched = scheduler(max_seqs=2, pages=8, max_step_tokens=3)
    sched.add(request("a", 30, max_tokens=100, ignore_eos=True))
    for _ in range(16):
        step(sched)
    sched.add(request("b", 150, first=900, max_tokens=1))
    recomputed = None
    while sched.has_work:
        plan, outputs = step(sched)
        recomputed = next((run.first for run in plan.runs if plan.starts), recomputed)
    assert sched.stats().preemptions == 1
    assert recomputed > 0
    assert outputs == [Output(id="b", tokens=[7], finish="length")]
    assert (sched.stats().prefix_queries, sched.stats().prefix_hits) == (180, 0)


def test_nobody_is_admitted_in_a_step_that_preempted():
    """Not even one more important than the victim, for which there is room now."""
    sched = scheduler(max_seqs=3, pages=8, max_step_tokens=400, policy="priority", prefix_cache=False)
    sched.add(request("a", 60, first=1000, priority=0, max_tokens=None))
    sched.add(request("victim", 120, first=2000, priority=2, max_tokens=None))
    step(sched)
    sched.add(request("b", 60, first=3000, priority=1, max_tokens=1))
    while not sched.stats().preemptions:
        plan, _ = step(sched)
    assert (plan.starts, len(plan.frees), sched.stats().waiting) == ((), 1, 2)
    assert [start.request.id for start in step(sched)[0].starts] == ["b"]


@pytest.mark.parametrize(("pages", "running"), [(7, "a"), (8, "ab"), (9, "abc")])
def test_admission_leaves_room_for_known_tokens_and_growth(pages, running):
    sched = scheduler(max_seqs=4, pages=pages, max_step_tokens=200)
    sched.add(request("a", 100, first=1000, max_tokens=100))  # 4 pages, and 1 to grow
    sched.add(request("b", 60, first=2000, max_tokens=100))  # 2 pages, and 1 to grow
    sched.add(request("c", 1, max_tokens=2))  # 1 page and never more: it would fit, but does not pass b
    plan, _ = step(sched)
    assert "".join(start.request.id for start in plan.starts) == running
    assert sched.stats().pages_held == {"a": 4, "ab": 6, "abc": 7}[running]  # nothing is reserved
    assert len(finish(sched)) == 3


@pytest.mark.parametrize("preemptions", [0, 1, 3])
def test_each_return_needs_twice_the_room(preemptions):
    """Both may have to grow by 2**preemptions pages, beside the one page each has or needs."""
    least = 2 + 2 * 2**preemptions
    for pages in (least - 1, least):
        sched = scheduler(max_seqs=2, pages=pages)
        sched.add(request("a", 10, first=1000, max_tokens=None))
        step(sched)
        sched.add(request("b", 10, first=2000, max_tokens=None))
        sched._sequences["b"].preemptions = preemptions
        assert len(step(sched)[0].starts) == (pages == least)


# Waste and time


def test_slack_is_below_four_percent():
    """Realistic lengths: 256 sequences of 300 to 2000 tokens."""
    source = random.Random(0)
    sched = scheduler(pages=256 * 64, max_seqs=256, max_step_tokens=2048)
    for index in range(256):
        length = source.randrange(300, 2001)
        prompt = [source.randrange(50_000) for _ in range(length * 7 // 10)]
        sampling = SamplingParams(max_tokens=length - len(prompt), ignore_eos=True)
        sched.add(Request(id=str(index), prompt=prompt, sampling=sampling))
    places = slack = 0
    while sched.has_work:
        plan = sched.plan()
        sched.commit(plan, answer(plan, 7))
        stats = sched.stats()
        places += stats.pages_held * PAGE
        slack += stats.slack_tokens
    assert 0 < slack < 0.04 * places


# Windows


def test_pages_behind_a_window_are_another_s_at_once():
    """Four rows of pages do for any length of two groups, one of which sees 40 tokens."""
    sched = scheduler(pages=8 + 4, windows=(0, 40), max_seqs=2, max_step_tokens=32, max_len=8 * PAGE)
    sched.add(request("a", 7 * PAGE, max_tokens=1))
    held = []
    while sched.has_work:
        step(sched)
        held.append(sched.stats().pages_held)
    assert held[:6] == [2, 4, 5, 6, 7, 8] and held[6:] == [0]
    assert sched.stats().preemptions == 0


def test_a_prefix_is_found_as_far_as_its_window_is_there():
    sched = scheduler(pages=64, windows=(0, 40), max_seqs=4, max_step_tokens=512)
    sched.add(request("a", 4 * PAGE + 1, max_tokens=1))
    assert step(sched)[1][0].cached == 0
    sched.add(request("b", 3 * PAGE + 5, max_tokens=1))
    plan, outputs = step(sched)
    assert outputs[0].cached == 3 * PAGE
    whole, windowed = plan.runs[0].blocks[::2], plan.runs[0].blocks[1::2]
    assert min(whole) >= 0 and windowed[0] == -1 and min(windowed[1:]) >= 0


def test_who_was_preempted_still_fits_beside_those_that_could_pass_it():
    """Where "c" and "d" are admitted by the room that they need themselves, "b" has none when "a" ends."""
    sched = scheduler(pages=13, max_seqs=7, max_step_tokens=50, prefix_cache=False)
    for name, length, most in (("a", 105, 65), ("b", 65, 300), ("c", 20, 300), ("d", 20, 300)):
        sched.add(request(name, length, max_tokens=most))
    for name in "ab":
        sched._sequences[name].preemptions = 1
    while "a" in sched._sequences:
        step(sched)
    plan, _ = step(sched)
    assert sched._sequences["b"].slot in {run.slot for run in plan.runs}


def test_nobody_loses_a_prefix_between_admission_and_start():
    """ "a"'s next page is not taken from what "b" shares: computing that anew, there would be no room."""
    sched = scheduler(pages=12, windows=(0, 40), max_seqs=4, max_step_tokens=256)
    sched.add(request("a", 4 * PAGE - 20, max_tokens=25))
    step(sched)
    sched.add(request("c", 2 * PAGE, first=500, max_tokens=1))  # its pages are evicted after those "a" gave back
    assert len(step(sched)[0].starts) == 1
    while step(sched)[0].runs[0].first < 4 * PAGE - 1:
        pass
    sched.add(request("b", 3 * PAGE + 1, max_tokens=1))
    plan, outputs = step(sched)
    assert [run.slot for run in plan.runs] == [0, 1]
    assert {output.id: output.cached for output in outputs} == {"a": 0, "b": 3 * PAGE}
    finish(sched)
    assert sched.stats().preemptions == 0


def test_a_failure_forgets_what_was_given_back():
    sched = scheduler(pages=64, windows=(40,), max_seqs=1, max_step_tokens=4 * PAGE)
    sched.add(request("a", 8 * PAGE, max_tokens=2))
    step(sched)
    plan = sched.plan()
    outputs = sched.commit(plan, StepResult([RunResult(failed="logits are not finite")]))
    assert outputs[0].finish == "error"
    sched.check()
    assert (sched.stats().pages_cached, sched.stats().pages_held) == (0, 0)
