"""Who may start: the first of the queue that fit beside the running and each other.

Admissible are the first of the queue for which there are slots, and pages that nobody holds: each must find room for
itself, those admissible before it and every running sequence to compute all tokens they have *and* grow by 2**p rows of
pages each (or as far as their max_tokens allow), p being how often it, or one before it in the queue, was preempted.
Nobody passes one that does not fit. One that fits may be passed, by a shorter prompt that fits beside it. An admissible
sequence starts in the first step that grants it tokens, so that it finds the prefixes computed until then; those that
start in a step take hold of what they found before anybody takes pages. Nothing else of this is reserved: it is a test,
not a claim. It follows that
  - nobody is preempted in a step that starts somebody, for all known tokens fit;
  - the first in order is never preempted by others and always fits, so it always finishes;
  - each return of a sequence needs twice the room of the one before, so under fcfs a sequence is preempted at most 1 +
    log2(pages of one sequence) times, whatever the load: there is no thrash. (With priorities, more important requests
    that keep arriving may add to this.)

Changes nothing. Knows no budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple

from octavo.cache.tables import BlockTables
from octavo.core.layout import PAGE
from octavo.sched.sequence import Sequence
from octavo.sched.share import Prompt


class Found(NamedTuple):
    """What is known of a sequence: the table of its full pages, and pages that have the `tokens` tokens behind them."""

    table: list[int]
    begun: list[int]
    tokens: int


def find(sequence: Sequence, tables: BlockTables) -> Found:
    """Its known prefix; at least one token is left to compute, so that there is a row to draw from.

    Empty where something is still owed of each token of the prompt.
    """
    if (sequence.whole and not sequence.generated) or not tables.pool.prefix_cache:
        return Found([], [], 0)
    length = len(sequence.tokens)
    table = tables.find(sequence.chain((length - 1) // PAGE))
    page = len(table) // tables.groups.count
    begun, tokens = tables.begun(sequence.names(page, length))
    return Found(table, begun, min(tokens, length - 1 - page * PAGE))


def admissible(waiting: Iterable[Sequence], running: Iterable[Sequence], tables: BlockTables) -> list[Prompt]:
    """The first of the waiting that fit, in order. There must be slots for all of them."""
    groups = tables.groups

    def claim(sequence: Sequence, growth: int) -> int:
        """Pages that a running sequence may still come to hold."""
        return groups.claim(sequence.wanted(growth) - len(sequence.blocks) // groups.count)

    prompts: list[Prompt] = []
    entering: list[tuple[Sequence, int, list[int]]] = []  # with the rows found, and their pages that nobody holds
    claims: dict[int, int] = {}  # growth in rows -> pages that all before may come to hold to grow by so much
    growth = 1
    for sequence in waiting:
        found = find(sequence, tables)
        rows, idle = len(found.table) // groups.count, tables.idle(found.table)
        growth = max(growth, 1 << sequence.preemptions)  # who is passed must still fit when it comes to its turn
        if growth not in claims:
            claims[growth] = sum(map(claim, running, repeat(growth)))
            claims[growth] += sum(groups.claim(other.wanted(growth) - known, more) for other, known, more in entering)
        if claims[growth] + groups.claim(sequence.wanted(growth) - rows, idle) > tables.pool.available:
            break
        entering.append((sequence, rows, idle))
        for others in claims:
            claims[others] += groups.claim(sequence.wanted(others) - rows, idle)
        first = rows * PAGE + found.tokens
        wanted = len(sequence.tokens) - first
        prompts.append(Prompt(sequence, first, wanted, table=found.table, begun=found.begun))
    return prompts
