"""What a plan is made of while it is made, and the totals of all steps. Knows no rule of who goes first."""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.core.plan import Plan, Run, Start
from octavo.sched.cost import Work
from octavo.sched.sequence import Sequence


@dataclass(slots=True)
class Tally:
    """Totals since the start. Prompt tokens count when their prompt is done, lookups at the first admission only."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Step:
    """A plan in the making; `sequences` go with `runs`."""

    starts: list[Start] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)  # see Plan
    work: Work = field(default_factory=Work)

    def run(self, sequence: Sequence, blocks: list[int]) -> None:
        """Compute what the sequence was granted; `blocks` are those its slot's table does not have yet."""
        first, count = sequence.computed, sequence.granted
        sample = first + count == len(sequence.tokens)
        self.runs.append(Run(sequence.slot, first, count, tuple(blocks), sample))
        self.sequences.append(sequence)
        self.work.add(first, count, 1 if sample and count == 1 else sequence.heads(first, count))

    def plan(self, number: int, frees: list[int]) -> Plan:
        """As the worker is told."""
        return Plan(number, tuple(frees), tuple(self.starts), tuple(self.runs), tuple(self.copies))
