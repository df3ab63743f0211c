"""Reasoning before the answer, between two marks.

White space around the marks belongs to them. The model writes the first mark itself, at the start of its text, unless
the chat template has written it already. Forms as their models' templates and vLLM's parsers of these names have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.text.parsers.events import Content, Event, Reasoning, Thinker
from octavo.text.parsers.marks import ANYTHING, Written, begun, first_of


@dataclass(frozen=True, slots=True)
class Thought:
    """The marks of one form of reasoning; the first of each is what a template writes."""

    opening: tuple[str, ...]
    closing: tuple[str, ...]
    cut: str  # what ends reasoning that goes on for too long

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks."""
        return self.opening + self.closing

    def state(self, prompt: str) -> str:
        """Where an answer begins behind a prompt of this end: "before" its reasoning, "inside" it or "after" it."""
        end = prompt.rstrip()
        return "inside" if end.endswith(self.opening) else "after" if end.endswith(self.closing) else "before"

    def going_on(self, said: str) -> str:
        """Where the rest of an answer begins that has begun with this text: what mark comes last says it."""
        begun, ended = (max(map(said.rfind, marks)) for marks in (self.opening, self.closing))
        if begun <= ended:
            return "after"
        return "inside" if said.rstrip().endswith(self.opening) else "within"

    def parser(self, state: str) -> Thinker:
        """What reads an answer that begins in this state."""
        return Thinking(self, state)

    def rules(self, state: str, written: Written) -> list[str] | None:
        """Lark: reasoning from this state on, and then @answer; None where there is none to come."""
        if state == "after":
            return None
        opening, closing = written(self.opening[0]), written(self.closing[0])
        thinks = [f"thinks: TEXT {closing}", f"TEXT: {ANYTHING}"]
        if closing.startswith('"'):  # a text, not a token: the first ends the reasoning
            thinks = [f"thinks[suffix={closing}]: {ANYTHING}"]
        begin = "thinks SPACE" if state in ("inside", "within") else f"({opening} thinks SPACE)?"
        return [f"start: {begin} @answer", *thinks, "SPACE: /[ \\n]{0,4}/"]


THINK = Thought(("<think>",), ("</think>",), "\n</think>\n\n")
MISTRAL = Thought(("[THINK]",), ("[/THINK]",), "[/THINK]")
GEMMA = Thought(("<|channel>thought",), ("<channel|>",), "<channel|>")
GRANITE = Thought(
    ("Here is my thought process:", "Here's my thought process:"),
    ("Here is my response:", "Here's my response:"),
    "\n\nHere is my response: ",
)


class Thinking:
    """Splits one text. What is not reasoning is given as Content."""

    def __init__(self, thought: Thought, state: str) -> None:
        self._thought = thought
        self._state = "inside" if state == "within" else state  # its beginning is in the prompt, so spaces count
        self._held = ""
        self._bare = state == "inside"  # nothing but white space since the mark

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within reasoning."""
        return self._state == "inside"

    def push(self, text: str) -> list[Event]:
        """What is certain with this text."""
        self._held += text
        events: list[Event] = []
        if self._state == "before":
            self._begin()
        if self._state == "inside":
            self._think(events)
        if self._state == "after":
            self._pass(events)
        return events

    def finish(self) -> list[Event]:
        """The reasoning goes on to the end, or there was none."""
        held, self._held = self._held, ""
        if self._state == "inside":
            held = self._kept(held)
            return [Reasoning(held.rstrip())] if held.strip() else []
        return [Content(held)] if held else []

    def _begin(self) -> None:
        """Enter the reasoning, or find that there is none."""
        start = self._held.lstrip()
        if any(mark != start and mark.startswith(start) for mark in self._thought.opening):
            return
        mark = _at_start(start, self._thought.opening)
        if mark is None:
            self._state = "after"
        else:
            self._state, self._held, self._bare = "inside", start[len(mark) :], True

    def _think(self, events: list[Event]) -> None:
        """Give reasoning up to the closing mark."""
        found = first_of(self._held, self._thought.closing)
        if found is None:
            self._held = self._kept(self._held)
            sure = self._held[: len(self._held) - begun(self._held, self._thought.closing)].rstrip()
            self._held = self._held[len(sure) :]
        else:
            place, mark = found
            sure = self._kept(self._held[:place]).rstrip()
            self._state, self._held, self._bare = "after", self._held[place + len(mark) :], True
        if sure:
            events.append(Reasoning(sure))

    def _kept(self, text: str) -> str:
        """The text without white space behind the opening mark."""
        if self._bare:
            text = text.lstrip()
            self._bare = not text
        return text

    def _pass(self, events: list[Event]) -> None:
        text = self._kept(self._held)
        self._held = ""
        if text:
            events.append(Content(text))


def _at_start(text: str, marks: Sequence[str]) -> str | None:
    return next((mark for mark in marks if text.startswith(mark)), None)
