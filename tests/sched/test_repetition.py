"""Answers that only repeat themselves, against a search of all patterns."""

from hypothesis import given
from hypothesis import strategies as st

from octavo.cache.pool import BlockPool
from octavo.core.config import SchedulerConfig
from octavo.core.plan import RunResult, StepResult
from octavo.core.repetition import RepetitionDetectionParams
from octavo.core.request import Request, SamplingParams
from octavo.sched.repetition import Repetition
from octavo.sched.scheduler import Scheduler


def repeats(tokens: list[int], params: RepetitionDetectionParams) -> bool:
    """The definition."""
    for size in range(max(params.min_pattern_size, 1), params.max_pattern_size + 1):
        if (
            size * params.min_count <= len(tokens)
            and tokens[-size:] * params.min_count == tokens[-size * params.min_count :]
        ):
            return True
    return False


@st.composite
def detections(draw) -> RepetitionDetectionParams:
    most = draw(st.integers(0, 6))
    return RepetitionDetectionParams(
        max_pattern_size=most, min_pattern_size=draw(st.integers(0, most)), min_count=draw(st.integers(2, 4))
    )


@given(detections(), st.lists(st.integers(0, 2), max_size=40))
def test_every_repetition_is_found_at_once_and_no_other(params, tokens):
    repetition = Repetition(params)
    for count, token in enumerate(tokens, 1):
        assert repetition.add(token) == repeats(tokens[:count], params)


def ended(answer: list[int], drawn: int = 0, **sampling) -> tuple[list[int], str, int | str | None]:
    """What is kept of an answer behind a prompt that repeats 5, why it ends, and its stop reason."""
    scheduler = Scheduler(SchedulerConfig(max_seqs=1), BlockPool(8))
    params = SamplingParams(max_tokens=len(answer), **sampling)
    scheduler.add(Request(id="a", prompt=[5] * 20, sampling=params, eos_ids=[2], drawn=drawn))
    tokens = []
    for token in answer:
        plan = scheduler.plan()
        (output,) = scheduler.commit(plan, StepResult([RunResult((token,))]))
        tokens += output.tokens
        if output.finish:
            return tokens, output.finish, output.stop_reason
    raise AssertionError("no end")


def test_an_answer_that_repeats_itself_ends_there():
    twice = RepetitionDetectionParams(max_pattern_size=3, min_count=2)
    repeated = ("repetition", "repetition_detected")
    assert ended([5, 7, 8, 7, 8, 9], repetition_detection=twice) == ([5, 7, 8, 7, 8], *repeated)
    assert ended([5, 7, 8, 7, 8, 9]) == ([5, 7, 8, 7, 8, 9], "length", None)
    assert ended([5, 7, 8, 7, 8], repetition_detection=twice) == ([5, 7, 8, 7, 8], "length", None)
    assert ended([2, 2], ignore_eos=False, repetition_detection=twice) == ([2], "stop", None)
    assert ended([7, 7, 7, 9], min_tokens=3, repetition_detection=twice) == ([7, 7, 7], *repeated)
    assert ended([5, 9], drawn=1, repetition_detection=twice) == ([5], *repeated)
