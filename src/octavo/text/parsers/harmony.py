"""gpt-oss: messages in channels, with reasoning in one of them, calls in another, the answer in the last.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.weather
    <|constrain|>json<|message|>{"city": "Oslo"}<|call|>
    <|channel|>final<|message|>...

Source: the harmony format, https://github.com/openai/harmony. A message to somebody is passed on between its marks, for
the family of calls to read; those to nobody outside the channel of analysis are content.
"""

from __future__ import annotations

import re

from octavo.text.parsers.calls import Call, Family
from octavo.text.parsers.events import Content, Event, Reasoning, Thinker, Tools
from octavo.text.parsers.marks import ANYTHING, Written, begun, first_of
from octavo.text.parsers.payload import arguments, loaded

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
HEADS = (START, CHANNEL, MESSAGE, "to=")  # what the head of a message begins with
ENDS = ("<|end|>", "<|call|>", "<|return|>", START)
CALL = ENDS[1]
TO = f"{CHANNEL}commentary to="
_RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<\||\Z)")
# what may follow a name begins with white space, so that only one place is its end: no going back and forth
_CALL = re.compile(
    rf"{re.escape(TO)}functions\.([^\s<]+)(?:\s[^<]*)?(?:{re.escape(CONSTRAIN)}[^<]*)?{re.escape(MESSAGE)}"
)


class Harmony:
    """The form, as thinking.Thought has that of other models."""

    marks = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS[:3])
    cut = f"<|end|>{START}assistant{CHANNEL}final{MESSAGE}"

    def state(self, prompt: str) -> str:
        """Where an answer begins behind a prompt of this end."""
        if not prompt.endswith(MESSAGE):
            return "before"
        return "inside" if prompt.endswith(f"{CHANNEL}analysis{MESSAGE}") else "after"

    def going_on(self, said: str) -> str:
        """Where the rest of an answer begins: a template writes what was said in the channel of answers."""
        return "after"

    def parser(self, state: str) -> Thinker:
        """What reads an answer that begins in this state."""
        return Channels(state)

    def rules(self, state: str, written: Written) -> list[str] | None:
        """Lark: analysis, and then @answer in the channel of answers; None where that has begun."""
        if state == "after":
            return None
        channel, message, end, start = (written(mark) for mark in (CHANNEL, MESSAGE, ENDS[0], START))
        thinks = f"TEXT {end} {start} ASSISTANT"
        begin = thinks if state == "inside" else ""
        return [
            f'start: {begin} ({channel} "analysis" {message} {thinks})* {channel} "final" {message} @answer',
            f"TEXT: {ANYTHING}",
            'ASSISTANT: "assistant"',
        ]


class Channels:
    """Splits one text into its messages."""

    def __init__(self, state: str) -> None:
        self._text = ""
        self._head = state == "before"  # of a message; else its body
        self._thinks = state == "inside"
        self._to = ""

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within reasoning."""
        return self._thinks and not self._head

    def push(self, text: str) -> list[Event]:
        """What is certain with this text."""
        self._text += text
        events: list[Event] = []
        while self._text and (self._begin(events) if self._head else self._go_on(events)):
            pass
        return events

    def finish(self) -> list[Event]:
        """What is left."""
        text, self._text = self._text, ""
        return [Reasoning(text) if self._thinks and not self._head else Content(text)] if text else []

    def _begin(self, events: list[Event]) -> bool:
        """Take the head of a message; whether its body begins."""
        text = self._text.lstrip()
        if not any(mark.startswith(text[: len(mark)]) for mark in HEADS):
            self._head, self._thinks, self._to = False, False, ""  # no message: an answer without its form
            return True
        head, found, rest = self._text.partition(MESSAGE)
        if not found:
            return False
        recipient = _RECIPIENT.search(head)
        self._to = recipient.group(1) if recipient else ""
        self._thinks = not self._to and f"{CHANNEL}analysis" in head
        self._head, self._text = False, rest
        if self._to:
            events.append(Content(f"{TO}{self._to}{MESSAGE}"))
        return True

    def _go_on(self, events: list[Event]) -> bool:
        """Give out the body of a message; whether its end is there."""
        found = first_of(self._text, ENDS)
        place = len(self._text) - begun(self._text, ENDS) if found is None else found[0]
        body, rest = self._text[:place], self._text[place:]
        if body:
            events.append(Reasoning(body) if self._thinks else Content(body))
        self._text = rest
        if found is None:
            return False
        if self._to:
            events.append(Content(CALL))
        self._head, self._to = True, ""
        self._text = rest if found[1] == START else rest[len(found[1]) :]
        return True


def _end(text: str, seen: int) -> int:
    place = text.find(CALL, max(0, seen - len(CALL) + 1))  # a token of its own, never within a string
    return -1 if place < 0 else place + len(CALL)


def _read(section: str, tools: Tools) -> list[Call]:
    head = _CALL.match(section)
    if head is None:
        raise ValueError("no call of a function")
    return [(head.group(1), arguments(loaded(section[head.end() :].removesuffix(CALL) or "{}")))]


HARMONY = Harmony()
HEAD = re.compile(_CALL.pattern + r"\s*(?=\{)")
FAMILY = Family(_end, _read, opening=(TO,), marks=Harmony.marks, apart=False, head=HEAD, closing=(CALL,))
