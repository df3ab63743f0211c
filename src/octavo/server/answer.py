"""How a chat's answers are read: which parsers, and what their events are in OpenAI's shapes.

Invariant: the deltas of a streamed answer, joined, are the message of the whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from octavo.core.errors import InvalidValue
from octavo.protocol.calls import CallDelta, Called, CalledFunction, FunctionDelta
from octavo.protocol.chat import Answer, AnswerDelta, ChatRequest
from octavo.server.config import ServerConfig
from octavo.server.text import Language
from octavo.text.parsers import registry
from octavo.text.parsers.calls import Calls
from octavo.text.parsers.events import Arguments, CallBegun, Chain, Content, Event, Parser, Plain, Reasoning
from octavo.text.parsers.thinking import Thinking

TAIL = 24  # tokens of the prompt that are looked at for a mark at its end


@dataclass(frozen=True, slots=True)
class Reading:
    """How each answer to one request is read. kept: special tokens that the parser needs to see."""

    parser: Callable[[], Parser]
    kept: frozenset[int] = frozenset()

    @classmethod
    def of(cls, language: Language, config: ServerConfig, asked: ChatRequest, prompt: list[int]) -> Reading:
        """The parsers that the model's template, or the server's flags, ask for. Raises InvalidValue."""
        tokenizer = language.tokenizer
        assert tokenizer is not None, "there is no chat without text"
        stages: list[Callable[[], Parser]] = []
        marks: tuple[str, ...] = ()
        named = registry.chosen(registry.REASONING, config.reasoning_parser, tokenizer.chat_template)
        if named is not None:
            thought = registry.thought(named)
            state = thought.state(tokenizer.decode(prompt[-TAIL:], skip_special=False))
            stages.append(lambda: Thinking(thought, state))
            marks += thought.marks
        if asked.tools and asked.choice == "auto":
            named = registry.chosen(registry.TOOLS, config.tool_call_parser, tokenizer.chat_template)
            if named is None:
                wanted = "only tool_choice none, as --tool-call-parser names no parser that fits this model"
                raise InvalidValue("tools", [tool.function.name for tool in asked.tools[:8]], wanted)
            family = registry.family(named)
            tools = {tool.function.name: tool.function.parameters or {} for tool in asked.tools}
            stages.append(lambda: Calls(family, tools, parallel=asked.parallel_tool_calls))
            marks += family.marks
        return cls(lambda: _chained([make() for make in stages]), tokenizer.marks(marks))


def _chained(stages: list[Parser]) -> Parser:
    if len(stages) == 2:
        return Chain(*stages)
    return stages[0] if stages else Plain()


def read(parser: Parser, text: str) -> list[Event]:
    """A whole text."""
    return [*parser.push(text), *parser.finish()]


def calls(events: Sequence[Event]) -> bool:
    """Whether some call begins."""
    return any(isinstance(event, CallBegun) for event in events)


def message(events: Sequence[Event], *, reasoning: bool) -> Answer:
    """The whole message; without what was thought unless `reasoning`."""
    content = "".join(event.text for event in events if isinstance(event, Content))
    thought = "".join(event.text for event in events if isinstance(event, Reasoning))
    made = [Called(event.id, CalledFunction(event.name, "")) for event in events if isinstance(event, CallBegun)]
    for event in events:
        if isinstance(event, Arguments):
            made[event.index].function.arguments += event.text
    answer = Answer(content or (None if made or thought else ""))
    if thought and reasoning:
        answer.reasoning_content = answer.reasoning = thought
    if made:
        answer.tool_calls = made
    return answer


def deltas(events: Sequence[Event], *, reasoning: bool) -> list[AnswerDelta]:
    """What events add to the message; without what was thought unless `reasoning`."""
    made = []
    for event in events:
        if isinstance(event, Content):
            made.append(AnswerDelta(content=event.text))
        elif isinstance(event, Reasoning):
            if reasoning:
                made.append(AnswerDelta(reasoning_content=event.text, reasoning=event.text))
        elif isinstance(event, CallBegun):
            call = CallDelta(event.index, event.id, "function", FunctionDelta(event.name, ""))
            made.append(AnswerDelta(tool_calls=[call]))
        else:
            made.append(AnswerDelta(tool_calls=[CallDelta(event.index, function=FunctionDelta(UNSET, event.text))]))
    return made
