"""/v1/chat/completions: a conversation to token ids, pieces to chunks or to an answer.

Invariant: the contents of a choice's chunks, joined, are the content of the whole answer; so are their logprobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from octavo.core.errors import InvalidValue, ModelError, UserError
from octavo.core.status import EngineInfo
from octavo.protocol.calls import Tool
from octavo.protocol.chat import (
    AnswerDelta,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatRequest,
    Message,
    conversation,
)
from octavo.protocol.usage import CompletionDetails, Usage
from octavo.protocol.wire import brief, unicode
from octavo.server.answer import Reading, Thoughts, calls, deltas, message, read
from octavo.server.budget import Budget
from octavo.server.front import Front
from octavo.server.generation import Call, Piece
from octavo.server.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from octavo.server.stencil import HOLE, Stencil
from octavo.server.text import INLINE, Language
from octavo.text.parsers.events import Content, Event, Parser
from octavo.text.template import ChatTemplate
from octavo.text.tokenizer import Tokenizer
from octavo.text.told import shown


async def chat_tokens(
    language: Language,
    messages: list[Message],
    *,
    add_generation_prompt: bool,
    add_special_tokens: bool,
    variables: dict[str, Any],
    continue_final_message: bool = False,
    chat_template: str | None = None,
    tools: Sequence[Tool] = (),
    effort: str | None = None,
    instead: str = "use /v1/completions",
) -> list[int]:
    """Token ids of a conversation in the model's template, or another. Raises UserError.

    effort: of reasoning. instead: what to do where there is no template.
    """
    tokenizer = language.required("messages")
    template = language.template
    if chat_template is not None:
        template = await language.work(INLINE + 1, lambda: _template(tokenizer, chat_template))
    if template is None:
        raise UserError(f"messages: this model has no chat template; {instead}", "messages", "no_chat_template")
    if effort is not None:
        variables = _with_effort(template, effort) | variables
    plain = conversation(messages)
    if "developer" not in (chat_template or tokenizer.chat_template or ""):  # it knows the role by its older name
        plain = [message | {"role": "system"} if message["role"] == "developer" else message for message in plain]

    def encoded() -> list[int]:
        asked, given = shown(template, plain, [tool.shown() for tool in tools])
        render = template.render_open if continue_final_message else template.render
        text = render(asked, tools=given, add_generation_prompt=add_generation_prompt, **variables)
        return tokenizer.encode(text, special=add_special_tokens)

    size = sum(_size(message["content"]) for message in plain)
    return await language.work(size + (INLINE if tools else 0), encoded)


def check_template(front: Front, written: str | None) -> None:
    """Refuse a request's template where the server was not told to trust it."""
    if written is not None and not front.config.trust_request_chat_template:
        wanted = "only a server started with --trust-request-chat-template takes it"
        raise InvalidValue("chat_template", brief(written), wanted)


def _with_effort(template: ChatTemplate, effort: str) -> dict[str, Any]:
    """What tells the template how much to think. Raises InvalidValue."""
    if "reasoning_effort" in template.variables:
        return {"reasoning_effort": effort}
    for name in ("enable_thinking", "thinking"):
        if name in template.variables:
            return {name: effort != "none"}
    raise InvalidValue("reasoning_effort", effort, "none given: the chat template knows no reasoning")


def _template(tokenizer: Tokenizer, written: str) -> ChatTemplate:
    """A request's template. Raises UserError."""
    try:
        return ChatTemplate.of(tokenizer, unicode("chat_template", written))
    except ModelError as error:
        raise UserError(f"chat_template: {error}", "chat_template", "invalid_value") from None


def _size(content: str | list[dict[str, str]]) -> int:
    """Characters of a message, and what rendering one costs besides in these terms."""
    return 256 + (len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content))


class ChatCall:
    """One call of the endpoint. Made by `open`; then either `whole` or `stream`, once."""

    def __init__(self, front: Front, info: EngineInfo, asked: ChatRequest) -> None:
        self._front = front
        self._asked = asked
        self._sampling = asked.sampling()
        self._call = Call(front, info, asked, self._sampling)
        self._names = TokenNames(front.language.tokenizer, numbered=asked.return_tokens_as_token_ids)
        self._reading: Reading
        self._thoughts: dict[int, Thoughts] = {}  # by choice

    @classmethod
    async def open(cls, front: Front, info: EngineInfo, asked: ChatRequest) -> ChatCall:
        """Check the request and make its prompt ready. Raises UserError."""
        call = cls(front, info, asked)
        check_template(front, asked.chat_template)
        tokens = await chat_tokens(
            front.language,
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            add_special_tokens=asked.add_special_tokens,
            variables=asked.chat_template_kwargs,
            continue_final_message=asked.continue_final_message,
            chat_template=asked.chat_template,
            tools=asked.tools,
            effort=asked.reasoning_effort,
        )
        reading = call._reading = Reading(front.language, front.config, asked, tokens)
        given = await call._call.form()

        def shaped() -> tuple[Budget | None, str]:
            return reading.budget(given), reading.grammar(given)

        size = INLINE + 1 if given or asked.tools else 0
        call._call.kept = reading.kept
        call._call.budget, call._call.grammar = await front.language.work(size, shaped)
        if asked.choice not in ("auto", "none"):
            call._call.grammar_field = "tools"
        call._call.add("messages", tokens, None)
        return call

    async def whole(self) -> bytes:
        """The JSON of the answer, when all is done."""
        await self._call.run(_nothing)
        call, asked = self._call, self._asked
        choices = [await self._choice(index) for index in range(len(call.requests))]
        answer = ChatCompletion(
            f"chatcmpl-{call.name}", call.created, call.model, call.fingerprint, choices, await self._last_usage()
        )
        if asked.return_token_ids:
            answer.prompt_token_ids = call.requests[0].prompt
        if asked.prompt_logprobs is not None:
            entries = call.totals[0].prompt_logprobs
            answer.prompt_logprobs = await self._front.language.work(
                len(entries), lambda: prompt_logprobs(self._names, entries)
            )
        return msgspec.json.encode(answer)

    async def _choice(self, index: int) -> ChatChoice:
        """A choice that is done."""
        total, asked, work = self._call.totals[index], self._asked, self._front.language.work
        logprobs = None
        if asked.logprobs:
            shape = partial(chat_logprobs, self._names, total.logprobs)
            logprobs = await work(len(total.logprobs), shape)
        events = await work(len(total.text), partial(read, self._reading.parser(), total.text))
        said = message(events, reasoning=asked.include_reasoning)
        choice = ChatChoice(index, said, logprobs, _finish(total.finish, calls(events)), total.stop_reason)
        if asked.return_token_ids:
            choice.token_ids = total.tokens
        return choice

    async def stream(self, put: Callable[[bytes], None]) -> None:
        """Give the JSON of each chunk to `put`: of each choice first its role, then its text, then its end."""
        options = self._asked.stream_options
        wanted, each = bool(options and options.include_usage), bool(options and options.continuous_usage_stats)
        usage: msgspec.UnsetType | None = None if wanted else UNSET
        plain = not (self._asked.logprobs or self._asked.return_token_ids or each)
        begun: dict[int, Stencil] = {}  # for the chunks that differ in nothing but their text: nearly all
        streams = [Stream(self._reading.parser()) for _ in self._call.requests]

        async def take(piece: Piece) -> None:
            events = streams[piece.index].take(piece)
            if plain and piece.index in begun and piece.delta.finish is None:
                if not events:
                    return
                if len(events) == 1 and isinstance(events[0], Content):
                    put(begun[piece.index].fill(events[0].text))
                    return
            news = self._news(piece, events, called=streams[piece.index].called)
            if piece.index not in begun:
                role = ChatChunkChoice(piece.index, AnswerDelta(role="assistant", content=""))
                news.insert(0, role)
            for choice in news:
                chunk = self._chunk([choice], self._usage() if each else usage)
                if self._asked.return_token_ids and not begun:
                    chunk.prompt_token_ids = self._call.requests[0].prompt
                put(msgspec.json.encode(chunk))
                if piece.index not in begun:
                    text = ChatChunkChoice(piece.index, AnswerDelta(content=HOLE))
                    begun[piece.index] = Stencil(msgspec.json.encode(self._chunk([text], usage)))

        await self._call.run(take)
        if wanted:
            put(msgspec.json.encode(self._chunk([], await self._last_usage())))

    def _news(self, piece: Piece, events: list[Event], *, called: bool) -> list[ChatChunkChoice]:
        """What a piece adds to its choice: text, calls, an end, or nothing. Its tokens come with the first."""
        delta, added = piece.delta, deltas(events, reasoning=self._asked.include_reasoning)
        logprobs = chat_logprobs(self._names, delta.logprobs) if self._asked.logprobs and delta.logprobs else None
        told = logprobs is not None or (self._asked.return_token_ids and bool(delta.tokens))
        news = [ChatChunkChoice(piece.index, each) for each in (added or ([AnswerDelta(content="")] if told else []))]
        if news:
            news[0].logprobs = logprobs
            if self._asked.return_token_ids:
                news[0].token_ids = delta.tokens
        if delta.finish is not None:
            finish = _finish(delta.finish, called)
            news.append(
                ChatChunkChoice(piece.index, AnswerDelta(), finish_reason=finish, stop_reason=delta.stop_reason)
            )
        return news

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | msgspec.UnsetType | None) -> ChatChunk:
        call = self._call
        return ChatChunk(f"chatcmpl-{call.name}", call.created, call.model, call.fingerprint, choices, usage)

    async def _last_usage(self) -> Usage:
        """Counts of what is done: all tokens may have to be read for it."""
        count = sum(len(total.tokens) for total in self._call.totals.values())
        return await self._front.language.work(count, self._usage)

    def _usage(self) -> Usage:
        """Counts so far."""
        totals = self._call.totals
        cached = totals[0].cached if 0 in totals else 0
        completion = sum(len(total.tokens) for total in totals.values())
        usage = Usage.of(len(self._call.requests[0].prompt), completion, cached)
        for index in totals:
            if index not in self._thoughts:
                self._thoughts[index] = self._reading.thoughts()
        thought = sum(self._thoughts[index].count(total.tokens) for index, total in totals.items())
        usage.completion_tokens_details = CompletionDetails(thought)
        return usage


class Stream:
    """Events of one choice as they come. called: whether it holds a call so far."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.called = False

    def take(self, piece: Piece) -> list[Event]:
        """What a piece adds."""
        events = self._parser.push(piece.delta.text)
        if piece.delta.finish is not None:
            events += self._parser.finish()
        self.called = self.called or calls(events)
        return events


def _finish(finish: str | None, called: bool) -> str | None:
    """Why an answer ended, in OpenAI's words."""
    return "tool_calls" if called and finish == "stop" else finish


async def _nothing(piece: Piece) -> None:
    """The whole answer is read from the totals."""
