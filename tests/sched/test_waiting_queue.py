"""The waiting queue against a sorted list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.core.config import SchedulerConfig
from octavo.core.request import Request, SamplingParams
from octavo.sched.queue import WaitingQueue, place
from octavo.sched.sequence import Sequence


def waiting(order: tuple[int, int]) -> Sequence:
    request = Request(id=str(order), prompt=[1], sampling=SamplingParams())
    return Sequence(request=request, order=order, limit=9, tokens=[1], ends=frozenset())


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.queue = WaitingQueue()
        self.model: list[Sequence] = []
        self.popped: list[Sequence] = []
        self.arrivals = 0

    @rule(priority=st.integers(-2, 2))
    def push(self, priority):
        sequence = waiting((priority, self.arrivals))
        self.arrivals += 1
        self.queue.push(sequence)
        self.model.append(sequence)

    @precondition(lambda self: self.model)
    @rule()
    def pop(self):
        self.popped.append(next(iter(self.queue)))
        self.queue.remove(self.popped[-1])
        assert self.popped[-1] is min(self.model, key=lambda sequence: sequence.order)
        self.model.remove(self.popped[-1])

    @precondition(lambda self: self.popped)
    @rule(data=st.data())
    def push_again(self, data):
        sequence = data.draw(st.sampled_from(self.popped))
        self.popped.remove(sequence)
        self.queue.push(sequence)
        self.model.append(sequence)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(self.model))
        self.queue.remove(sequence)
        self.model.remove(sequence)

    @invariant()
    def agrees(self):
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.model)
            assert list(self.queue) == sorted(self.model, key=lambda sequence: sequence.order)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), max_size=30))
def test_policies(arrivals):
    for policy in ("fcfs", "priority"):
        config = SchedulerConfig(policy=policy)
        queue = WaitingQueue()
        expected = []
        for arrival, (priority, cancelled) in enumerate(arrivals):
            request = Request(id=str(arrival), prompt=[1], sampling=SamplingParams(), priority=priority)
            sequence = waiting(place(config, request, arrival))
            queue.push(sequence)
            if cancelled:
                queue.remove(sequence)
            else:
                expected.append((priority if policy == "priority" else 0, arrival))
        assert [sequence.order for sequence in queue] == sorted(expected)


def test_who_does_not_wait_cannot_leave():
    queue = WaitingQueue()
    assert list(queue) == []
    with pytest.raises(KeyError):
        queue.remove(waiting((0, 0)))
