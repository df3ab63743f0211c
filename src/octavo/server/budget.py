"""Reasoning that may take so many tokens: then what ends it is written for the model, which goes on behind that.

The sequence is given up there, and another goes on with all its tokens as a prompt, which the prefix cache has: the
same tokens whatever else runs. It draws as the first would have: with its seed, its penalties, which count what that
generated and the end written for it, and its state of mirostat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from octavo.core.errors import QueueFull
from octavo.core.plan import Output
from octavo.core.request import Request
from octavo.text.detok import Detokenizer
from octavo.text.parsers.events import Thinker

AGAIN_SECONDS = 0.05  # until a sequence is offered once more that found the queue full
Generate = Callable[[Request], AsyncGenerator[Output, None]]


@dataclass(frozen=True, slots=True)
class Budget:
    """How many `tokens` reasoning may take; `closing` ends it, and the answer behind it follows `grammar`."""

    tokens: int
    thinker: Callable[[], Thinker]
    detokenizer: Callable[[], Detokenizer]
    closing: list[int]
    grammar: str


class Watch:
    """Counts the tokens of one sequence's reasoning."""

    def __init__(self, budget: Budget) -> None:
        self._left = budget.tokens
        self._thinker = budget.thinker()
        self._detokenizer = budget.detokenizer()

    @property
    def spent(self) -> bool:
        """Whether it reasons, with nothing left, and has not begun a character."""
        return self._thinker.inside and self._left <= 0 and not self._detokenizer.begun

    def take(self, token: int) -> None:
        """One more token."""
        thought = self._thinker.inside
        self._thinker.push(self._detokenizer.push([token]))
        self._left -= thought


async def within(budget: Budget, generate: Generate, request: Request) -> AsyncGenerator[Output, None]:
    """Outputs of a request whose reasoning keeps to its budget. Raises as `generate` does."""
    watch, made = Watch(budget), []
    mu = None
    if not watch.spent:
        async with aclosing(generate(request)) as outputs:
            async for output in outputs:
                kept = _kept(watch, output)
                if kept is None:
                    made += output.tokens
                    yield output
                    if output.finish is not None:
                        return
                    continue
                made += output.tokens[:kept]
                mu = output.mu  # a sequence of mirostat draws one token at a time, so this is behind the last kept
                yield msgspec.structs.replace(output, tokens=output.tokens[:kept], finish=None, stop_reason=None)
                break
    room = (request.sampling.max_tokens or 0) - len(made)
    closing = budget.closing[:room]
    if room <= len(closing):
        yield Output(id=request.id, tokens=closing, finish="length")
        return
    yield Output(id=request.id, tokens=closing)
    rest = _rest(request, [*made, *closing], budget.grammar, mu)
    async with aclosing(_offered(generate, rest) if made else generate(rest)) as outputs:
        async for output in outputs:
            yield msgspec.structs.replace(output, cached=0 if made else min(output.cached, len(request.prompt)))


def _kept(watch: Watch, output: Output) -> int | None:
    """How many of an output's tokens the budget allows; None: all, and reasoning may go on."""
    for place, token in enumerate(output.tokens):
        watch.take(token)
        if watch.spent:
            return place + 1 if output.finish is None or place + 1 < len(output.tokens) else None
    return None


def _rest(request: Request, made: list[int], grammar: str, mu: float | None) -> Request:
    """The request that goes on behind the tokens made so far."""
    sampling = request.sampling
    assert sampling.max_tokens is not None, "the front sets it"
    rest = msgspec.structs.replace(
        sampling,
        max_tokens=sampling.max_tokens - len(made),
        min_tokens=max(0, sampling.min_tokens - len(made)),
        prompt_logprobs=None,
    )
    return msgspec.structs.replace(
        request,
        id=request.id + "-answer",
        prompt=[*request.prompt, *made],
        sampling=rest,
        grammar=grammar,
        after="",
        drawn=len(made),
        mu=mu,
    )


async def _offered(generate: Generate, request: Request) -> AsyncGenerator[Output, None]:
    """Outputs of a request that was accepted once already: it waits where the queue is full."""
    while True:
        try:
            async with aclosing(generate(request)) as outputs:
                async for output in outputs:
                    yield output
            return
        except QueueFull:
            await asyncio.sleep(AGAIN_SECONDS)
