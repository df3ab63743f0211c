"""What is read out of a model's text, piece by piece, and what reads it.

Invariant: the events of a text, texts of equal kind joined, do not depend on how the text was cut. An answer that is
not streamed is the same parser fed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text that the model said."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a tool; its arguments follow. `index` counts the answer's calls."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments: all of them, joined, are a JSON object."""

    index: int
    text: str


Event = Reasoning | Content | CallBegun | Arguments
Tools = Mapping[str, Mapping[str, Any]]  # JSON schemas of the parameters, by the name of the tool


class Parser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Event]:
        """What is certain with this text; what may yet become a mark is held back."""

    def finish(self) -> list[Event]:
        """What is left at the end."""


class Thinker(Parser, Protocol):
    """Reads what a model thinks; the rest it gives as Content."""

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within reasoning."""


class Plain:
    """Everything is content."""

    def push(self, text: str) -> list[Event]:
        """The text as it is."""
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        """Nothing."""
        return []


class Chain:
    """Reasoning first, then what follows it. `first` gives what it does not read itself as Content."""

    def __init__(self, first: Parser, then: Parser) -> None:
        self._first = first
        self._then = then

    def push(self, text: str) -> list[Event]:
        """What both make of it."""
        return self._passed(self._first.push(text))

    def finish(self) -> list[Event]:
        """What both hold."""
        return [*self._passed(self._first.finish()), *self._then.finish()]

    def _passed(self, events: list[Event]) -> list[Event]:
        made: list[Event] = []
        for event in events:
            made += self._then.push(event.text) if isinstance(event, Content) else [event]
        return made
