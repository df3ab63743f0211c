"""Logits processors: code of others that changes a row's logits before it is drawn from.

An entry point of the group GROUP names a factory: called with a request's arguments and the size of the vocabulary when
the request comes, and again whenever its sequence begins, it gives what is called before each of the sequence's tokens
is drawn.

Invariant: what a processor raises, or gives that is no row of logits, ends the sequence it was called for and no other.
Owns the books of what they cost. Knows no executor and no schedule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from octavo.core.errors import InvalidValue
from octavo.core.plan import Start
from octavo.core.request import Request, check_processors
from octavo.program.batch import Drawn, Floats, HeadRows, Ints
from octavo.program.sampling import draw_row
from octavo.worker.slots import Slots

GROUP = "octavo.logits_processors"

Processor = Callable[[Ints, Ints, Floats], Floats]  # prompt, what was generated, raw logits [vocab] -> logits [vocab]
Factory = Callable[[dict[str, Any], int], Processor]  # arguments, tokens of the vocabulary


def installed() -> dict[str, Factory]:
    """What packages of this environment offer, by name. Raises InvalidValue for one that cannot be loaded."""
    found: dict[str, Factory] = {}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except Exception as error:  # code of others: any
            raise InvalidValue("logits_processors", point.value, f"an importable factory: {error}") from error
    return found


class Processors:
    """Those of running sequences. `seconds` and `calls` are totals by name."""

    def __init__(self, factories: Mapping[str, Factory], vocab: int) -> None:
        self._factories = factories
        self._vocab = vocab
        self._chains: dict[int, dict[str, Processor]] = {}  # by slot, in the order of the request
        self.failures: dict[int, str] = {}  # by slot, of the last step
        self.seconds = dict.fromkeys(factories, 0.0)
        self.calls = dict.fromkeys(factories, 0)

    @property
    def any(self) -> bool:
        """Whether some sequence has one."""
        return bool(self._chains)

    def check(self, request: Request) -> None:
        """Raise InvalidValue for a processor that is not there, or that does not take the request's arguments."""
        self._chain(request)

    def start(self, start: Start) -> None:
        """A sequence takes a slot."""
        if start.request.sampling.logits_processors:
            self._chains[start.slot] = self._chain(start.request)

    def free(self, slot: int) -> None:
        """The slot's sequence is gone."""
        self._chains.pop(slot, None)

    def asked(self, head: HeadRows, rows: np.ndarray, slots: Ints) -> HeadRows:
        """The head, asking for the logits of its drawn rows that have processors. rows belong to `slots`."""
        wanted = np.isin(slots, list(self._chains))
        given = np.full(len(head.rows), -1, np.int32)
        given[rows[wanted]] = np.arange(wanted.sum())
        return replace(head, given=given)

    def draw(self, head: HeadRows, drawn: Drawn, rows: np.ndarray, slots: Ints, held: Slots) -> None:
        """Draw from the rows whose logits were given, as program/sampling.py defines it."""
        self.failures = {}
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            if head.given[row] < 0:
                continue
            raw = drawn.logits[head.given[row]]
            tokens = held.tokens[slot, : head.position[row]]
            prompt, generated = np.split(tokens, [held.prompt_lens[slot]])
            logits = raw
            try:
                for name, processor in self._chains[slot].items():
                    logits = self._processed(name, processor, (prompt.copy(), generated.copy(), logits.copy()))
            except Exception as error:  # code of others: any
                self.failures[slot] = f"logits_processors: {error!r}"
                logits = raw
            draw_row(drawn, row, raw, logits, head)

    def _chain(self, request: Request) -> dict[str, Processor]:
        check_processors(request.sampling, self._factories)
        chain = {}
        for name, arguments in (request.sampling.logits_processors or {}).items():
            try:
                chain[name] = self._factories[name](dict(arguments), self._vocab)
            except Exception as error:  # code of others: any
                raise InvalidValue(f"logits_processors.{name}", arguments, f"arguments it takes: {error}") from error
        return chain

    def _processed(self, name: str, processor: Processor, given: tuple[Ints, Ints, Floats]) -> Floats:
        began = time.perf_counter()
        try:
            logits = np.asarray(processor(*given), np.float32)
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.calls[name] += 1
        if logits.shape != (self._vocab,) or np.isnan(logits).any():
            raise ValueError(f"{name} gave no {self._vocab} numbers")
        return logits
