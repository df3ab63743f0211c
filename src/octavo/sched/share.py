"""How the prompts of a step share it: how many tokens each is granted.

**How much.** Tokens up to max_step_tokens; and where somebody decodes, time: what the cost model says fits the inter-
token target beside the decodes, but at least an eighth of the target where these leave less, and at least a tile of
rows. So a step is predicted to stay within the target while the decodes alone take at most 7/8 of it, and a prompt
advances however long they take. Where nobody decodes nobody waits for a token, and only max_step_tokens counts. A chunk
that time cuts short is a multiple of the kernels' tile, and of a page where it is long; deep in a context, where each
row sees more keys, it shrinks.

**To whom.** Half goes to the first in order, the rest to the shortest remaining first. Shortest first gives the least
mean time to a first token (Smith, 1956) and never leaves a short prompt behind a long one; among equals it finishes one
prompt after another instead of all at the end. Sequences that can only be computed whole get all they want or nothing,
the first in order before all others. The half bounds what that costs others: until the prompt of a sequence
is done, each step gives at least half of its room to it or to one before it in order, so the tokens of these, twice,
are the most that pass before. With priorities the more important come first, and the shortest among equals.

Invariant: some prompt is granted a token whenever there is one and a token is left. Knows no pages, slots or clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.core.layout import PAGE
from octavo.sched.cost import StepCost, Work
from octavo.sched.sequence import Sequence

TILE = 8  # rows that the kernels compute at once
LEAST_SHARE = 1 / 8  # of the target, for prompts, however long the decodes take


@dataclass(slots=True, eq=False)
class Prompt:
    """`wanted` tokens of a sequence, running or admissible, from position `first` on; so many of them are granted.

    Of one that is to start what is known, see Found: `table`, and `begun` with the tokens of the page `first` lies in.
    """

    sequence: Sequence
    first: int
    wanted: int
    granted: int = 0
    table: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)


class Room:
    """What the decodes of a step leave of it.

    tokens: how many may join. decodes: their work. cost: None where time does not bind; otherwise the step should take
    at most `target` seconds. whole: prompts are computed in one step or not at all.
    """

    def __init__(
        self, tokens: int, decodes: Work, cost: StepCost | None, target: float, *, whole: bool = False
    ) -> None:
        self.tokens = tokens
        self.whole = whole
        self._work = decodes
        self._cost = cost
        self._limit = 0.0 if cost is None else max(target, cost.cautious(decodes) + LEAST_SHARE * target)

    def give(self, prompt: Prompt, part: int, least: int) -> None:
        """Grant a prompt as much as it wants of the `part`-th part of the room; `least` tokens whatever the time."""
        sequence, first = prompt.sequence, prompt.first + prompt.granted
        count = min(prompt.wanted - prompt.granted, -(-self.tokens // part))
        if self.whole and count < prompt.wanted:
            return
        if self._cost is not None and count > least:
            spent = self._cost.cautious(self._work)
            limit = spent + (self._limit - spent) / part
            fits = self._cost.fits(self._work, first, limit, scored=sequence.scored)
            if fits < count:
                count = max(fits - fits % (PAGE if fits >= 4 * PAGE else TILE), least)
        if count:
            prompt.granted += count
            self.tokens -= count
            self._work.add(first, count, sequence.heads(first, count))


def share(prompts: list[Prompt], room: Room) -> None:
    """Set `granted` of all."""
    if not prompts:
        return
    eldest = min(prompts, key=lambda prompt: prompt.sequence.order)
    turns = sorted(prompts, key=lambda prompt: (prompt.sequence.order[0], prompt.wanted, prompt.sequence.order[1]))
    if turns[0] is not eldest:
        room.give(eldest, 1 if room.whole else 2, TILE)
    for turn, prompt in enumerate(turns):
        if not room.tokens:
            break
        if not (room.whole and prompt.granted):
            room.give(prompt, 1, 0 if turn else TILE)
