"""Every accepted request ends exactly once, whatever is aborted, refused or broken, and nothing stays held."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_engine
import tiny_llama

from octavo.core.errors import EngineFault, InvalidValue, QueueFull
from octavo.core.plan import Plan
from octavo.core.request import Request, SamplingParams


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return tiny_engine.program_of(tiny_llama.write_folder(tmp_path_factory.mktemp("model") / "plain"))


def request_of(name: str, prompt: list[int], **sampling) -> Request:
    return Request(id=name, prompt=prompt, sampling=SamplingParams(**{"temperature": 0.0, **sampling}), eos_ids=[2])


def test_aborts_in_every_state_leave_the_pool_whole(program):
    """200 requests that come and are aborted at random: waiting, in prefill, decoding, preempted, and ended."""
    random = np.random.default_rng(1)
    engine = tiny_engine.engine_of(program, "cpu", pages=8, seqs=6, step_tokens=16)
    bystander = request_of("bystander", [7, 8, 9], max_tokens=120, ignore_eos=True)
    ends: dict[str, list[str]] = {}
    tokens: list[int] = []
    states: set[str] = set()

    def take(outputs) -> None:
        for output in outputs:
            if output.id == "bystander":
                tokens.extend(output.tokens)
            if output.finish is not None:
                ends.setdefault(output.id, []).append(output.finish)

    engine.add(bystander)
    names = []
    for number in range(200):
        names.append(f"r{number}")
        prompt = random.integers(3, 256, int(random.integers(1, 70))).tolist()
        engine.add(request_of(names[-1], prompt, max_tokens=int(random.integers(1, 150)), ignore_eos=True))
        for _ in range(int(random.integers(0, 6))):
            take(engine.step())
        live = engine._scheduler._sequences
        preempted = [name for name, sequence in live.items() if sequence.preemptions and name != "bystander"]
        for victim in [*random.choice(names[-40:], 2), *preempted]:
            sequence = live.get(str(victim))
            if sequence is not None:
                kind = "preempted" if sequence.preemptions else "prefill" if not sequence.generated else "decoding"
                states.add(f"{sequence.state.name} {kind}")
            output = engine.abort(str(victim))
            assert (output is None) == (sequence is None)
            take([] if output is None else [output])
        engine.check()
    while engine.has_work:
        take(engine.step())
    engine.check()
    assert {"WAITING prefill", "RUNNING prefill", "RUNNING decoding"} <= states
    assert any("preempted" in state for state in states)
    assert sorted(ends) == sorted([*names, "bystander"])
    assert all(len(each) == 1 for each in ends.values())
    assert {each[0] for each in ends.values()} == {"abort", "length"}
    stats = engine.stats()
    assert (stats.pages_held, stats.running, stats.waiting) == (0, 0, 0)
    assert stats.pages_free + stats.pages_cached == stats.pages_total == 8
    engine.close()

    alone = tiny_engine.engine_of(program, "cpu", prefix_cache=False)
    assert tokens == tiny_engine.gathered(alone, [bystander])["bystander"].tokens
    alone.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 256]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [2**70]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [3.0]}, "prompt[0]"),
        ({"prompt": [3] * 256}, "prompt"),
        ({"sampling": SamplingParams(logit_bias={256: 1.0})}, "logit_bias"),
        ({"sampling": SamplingParams(stop_token_ids=[300])}, "stop_token_ids"),
        ({"sampling": SamplingParams(min_tokens=255, max_tokens=None)}, "min_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_and_changes_nothing(program, change, field):
    engine = tiny_engine.engine_of(program, "reference")
    before = engine.stats()
    with pytest.raises(InvalidValue) as refused:
        engine.add(Request(**{"id": "a", "prompt": [3, 4], "sampling": SamplingParams(), **change}))
    assert refused.value.field == field
    assert not engine.has_work
    assert engine.stats() == before


def test_an_id_in_flight_and_a_full_queue_are_refused(program):
    engine = tiny_engine.engine_of(program, "reference", seqs=1, max_queued=1)
    engine.add(request_of("a", [3]))
    with pytest.raises(InvalidValue, match="id"):
        engine.add(request_of("a", [3]))
    engine.step()
    engine.add(request_of("b", [3]))
    with pytest.raises(QueueFull):
        engine.add(request_of("c", [3]))
    assert engine.abort("b").finish == "abort"
    assert engine.abort("b") is None
    engine.add(request_of("c", [3]))
    engine.abort("a")
    engine.abort("c")
    engine.check()


def test_non_finite_logits_end_one_request_only(program):
    """A page poisoned while one sequence runs: it fails, and its neighbour's tokens are unchanged."""
    engine = tiny_engine.engine_of(program, "reference", prefix_cache=True)
    neighbour = request_of("neighbour", list(range(3, 50)), max_tokens=20, ignore_eos=True)
    wanted = tiny_engine.gathered(tiny_engine.engine_of(program, "reference"), [neighbour])["neighbour"].tokens
    engine.add(neighbour)
    engine.add(request_of("poisoned", list(range(90, 140)), max_tokens=20, ignore_eos=True))
    engine.step()
    block = engine._scheduler._sequences["poisoned"].blocks[0]
    engine._worker._executor._held[:, :, block] = 0x7FC0
    ends, tokens = {}, [wanted[0]]
    while engine.has_work:
        for output in engine.step():
            tokens += output.tokens if output.id == "neighbour" else []
            if output.finish:
                ends[output.id] = output
    assert ends["poisoned"].finish == "error"
    assert "finite" in ends["poisoned"].error
    assert ends["neighbour"].finish == "length"
    assert tokens == wanted
    engine.check()
    again = tiny_engine.gathered(engine, [request_of("again", list(range(90, 140)), max_tokens=3)])["again"]
    assert (again.finish, again.cached) == ("length", 0)  # the poisoned pages are found by nobody


def test_the_self_check_sees_a_page_that_nobody_gives_back(program):
    engine = tiny_engine.engine_of(program, "reference")
    engine.check()
    engine._scheduler.pool.take(1)
    with pytest.raises(EngineFault):
        engine.check()


def test_min_tokens_and_stop_tokens(program):
    engine = tiny_engine.engine_of(program, "reference")
    free = tiny_engine.gathered(engine, [request_of("a", [5, 6, 7], max_tokens=12, ignore_eos=True)])["a"].tokens
    stop = free[2]
    stopped = tiny_engine.gathered(engine, [request_of("a", [5, 6, 7], max_tokens=12, stop_token_ids=[stop])])["a"]
    assert stopped.tokens == free[: free.index(stop) + 1]
    assert (stopped.finish, stopped.stop_reason) == ("stop", stop)
    held = [request_of("a", [5, 6, 7], max_tokens=12, min_tokens=6, stop_token_ids=[stop], ignore_eos=True)]
    late = tiny_engine.gathered(engine, held)["a"]
    assert stop not in late.tokens[:6]
    assert len(late.tokens) >= 6


def test_an_empty_step_does_nothing(program):
    engine = tiny_engine.engine_of(program, "reference")
    assert engine.step() == []
    assert engine.stats().steps == 0


def test_a_fault_of_the_executor_reaches_who_drives_the_engine(program):
    engine = tiny_engine.engine_of(program, "reference")
    engine.add(request_of("a", [3]))

    def broken(plan: Plan):
        raise RuntimeError("the library is broken")

    engine._worker.run = broken
    with pytest.raises(RuntimeError, match="broken"):
        engine.step()
