"""How a chat's answers are read: which parsers, and what their events are in OpenAI's shapes.

Invariant: the deltas of a streamed answer, joined, are the message of the whole one.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from octavo.core.errors import InvalidValue
from octavo.protocol.calls import ONE, CallDelta, Called, CalledFunction, FunctionDelta
from octavo.protocol.chat import Answer, AnswerDelta, ChatRequest
from octavo.server.budget import Budget
from octavo.server.config import ServerConfig
from octavo.server.text import Language
from octavo.text import forced
from octavo.text.detok import Detokenizer
from octavo.text.parsers import registry
from octavo.text.parsers.calls import Calls, Family
from octavo.text.parsers.events import Arguments, CallBegun, Chain, Content, Event, Parser, Plain, Reasoning, Thinker
from octavo.text.parsers.forced import Forced
from octavo.text.template import plain_text

TAIL = 24  # tokens of the prompt that are looked at for a mark at its end


class Reading:
    """How the answers to one request are read, as the model's template or the server's flags have it.

    prompt: its tokens. kept: special tokens that the parsers need to see. Raises InvalidValue.
    """

    def __init__(self, language: Language, config: ServerConfig, asked: ChatRequest, prompt: list[int]) -> None:
        tokenizer = language.tokenizer
        assert tokenizer is not None, "there is no chat without text"
        self._tokenizer = tokenizer
        self._asked = asked
        self._prompt = prompt
        template = tokenizer.chat_template
        named = registry.chosen(registry.REASONING, config.reasoning_parser, template)
        self._thought = None if named is None else registry.thought(named)
        end = tokenizer.decode(prompt[-TAIL:], skip_special=False)
        self._state = "after"
        if self._thought is not None and asked.continue_final_message:
            self._state = self._thought.going_on(plain_text(asked.messages[-1].content))
        elif self._thought is not None:
            self._state = self._thought.state(end)
        self._forced = asked.choice != "none" and asked.choice != "auto"
        self._family = None
        if asked.tools and asked.choice == "auto":
            self._family = _family_of(language, config)
        marks = () if self._thought is None else self._thought.marks
        self.kept = tokenizer.marks(marks + (() if self._family is None else self._family.marks))

    def parser(self) -> Parser:
        """What reads one answer."""
        rest: Parser = Forced() if self._forced else Plain()
        if self._family is not None:
            tools = {tool.function.name: tool.function.parameters or {} for tool in self._asked.tools}
            rest = Calls(self._family, tools, parallel=self._asked.parallel_tool_calls)
        return rest if self._thought is None else Chain(self._thought.parser(self._state), rest)

    def thoughts(self) -> Thoughts:
        """What counts the tokens of one answer's reasoning."""
        thinker = None if self._thought is None else self._thought.parser(self._state)
        return Thoughts(thinker, Detokenizer(self._tokenizer, prompt=self._prompt, kept=self.kept))

    def grammar(self, given: str) -> str:
        """What the answer follows, where the request's own grammar is `given`; empty: nothing. Raises UserError."""
        given = self._said(given)
        if not given or self._thought is None:
            return given
        return forced.behind(given, self._thought.rules(self._state, self._tokenizer.written))

    def budget(self, given: str) -> Budget | None:
        """How much it may reason, where the request's own grammar is `given`. Raises InvalidValue."""
        tokens, thought, tokenizer = self._asked.thinking_token_budget, self._thought, self._tokenizer
        if tokens is None:
            return None
        if thought is None:
            wanted = "none given: --reasoning-parser names no parser that fits this model"
            raise InvalidValue("thinking_token_budget", tokens, wanted)
        return Budget(
            tokens,
            lambda: thought.parser(self._state),
            lambda: Detokenizer(tokenizer, prompt=self._prompt, kept=self.kept),
            tokenizer.encode(thought.cut, special=False),
            self._said(given),
        )

    def _said(self, given: str) -> str:
        """What the answer behind any reasoning follows."""
        if self._forced:
            given = _forced_calls(self._asked)
        elif given and self._family is not None:
            if not self._family.apart:
                wanted = "none where the answer must have a form: calls of this model look like an answer"
                raise InvalidValue("tool_choice", "auto", wanted)
            given = forced.or_calls(given, self._family.opening, self._tokenizer.written)
        return given


class Thoughts:
    """Counts the tokens of one answer's reasoning: from the first on to the one that ends it.

    Where it goes on later (gpt-oss), those count that begin or end within it. No `thinker`: there are none.
    """

    def __init__(self, thinker: Thinker | None, detokenizer: Detokenizer) -> None:
        self._thinker = thinker
        self._detokenizer = detokenizer
        self._seen = 0
        self._count = 0

    def count(self, tokens: Sequence[int]) -> int:
        """Those among all the answer's tokens so far."""
        if self._thinker is None:
            return 0
        for token in tokens[self._seen :]:
            before = self._thinker.inside
            self._thinker.push(self._detokenizer.push([token]))
            self._seen += 1
            if before or self._thinker.inside:
                self._count = self._count + 1 if self._count else self._seen
        return self._count


def _family_of(language: Language, config: ServerConfig) -> Family:
    """How the model writes calls. Raises InvalidValue."""
    assert language.tokenizer is not None and language.template is not None, "there is no chat without text"
    named = registry.chosen(registry.TOOLS, config.tool_call_parser, language.tokenizer.chat_template)
    if config.tool_call_parser == "auto" and "tools" not in language.template.variables:
        named = "hermes"  # the form in which it was told of them
    if named is None:
        wanted = "none, required or a function: --tool-call-parser names no parser that fits this model"
        raise InvalidValue("tool_choice", "auto", wanted)
    return registry.family(named)


def _forced_calls(asked: ChatRequest) -> str:
    """The grammar of the calls that `tool_choice` wants. Raises UserError."""
    only = asked.choice.removeprefix(ONE) if asked.choice.startswith(ONE) else None
    functions = [
        (tool.function.name, tool.function.parameters, f"tools[{place}].function.parameters")
        for place, tool in enumerate(asked.tools)
        if only in (None, tool.function.name)
    ]
    return forced.of_calls(functions, several=only is None and asked.parallel_tool_calls)


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
