"""One API call turned into sequences, and their outputs into one flow of pieces.

Invariant: leaving `run` in any way (end, error, cancellation) leaves no sequence of the call in the engine.
Each choice of each prompt is one engine request with an id of our own. The choices of one prompt wait for the first to
have computed it, and find it in the prefix cache: all but its last token. A choice's seed is the call's plus the
choice's number, so a prompt's choices do not depend on what else the call asks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from octavo.core.errors import InvalidValue, UserError
from octavo.core.plan import Output
from octavo.core.request import (
    Request,
    SamplingParams,
    check_ids,
    check_processors,
    check_sampling_tokens,
    choice_seed,
    last_tokens,
)
from octavo.core.status import EngineInfo, check_kind
from octavo.protocol.generation import GenerationRequest
from octavo.server.beams import best_beams, params_of
from octavo.server.budget import Budget, within
from octavo.server.ends import check_end
from octavo.server.front import Front
from octavo.server.metrics import Meter
from octavo.server.together import together
from octavo.text.assemble import Assembler, Delta
from octavo.text.bad_words import spelled
from octavo.text.breakers import required
from octavo.text.grammar import grammar_of
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from octavo.engine.client import EngineClient

MAX_CHOICES = 512  # choices of one call: prompts times n


DEADLINE = "deadline"  # the stop reason of what ran out of time


class Piece(msgspec.Struct, frozen=True, gc=False):
    """What one engine output adds to choice `index` (prompt number times n, plus choice number), and its totals."""

    index: int
    delta: Delta
    total: Assembler


Take = Callable[[Piece], Awaitable[None]]


class Call:
    """The sequences of one API call. `index` of a piece counts over all prompts."""

    def __init__(self, front: Front, info: EngineInfo, asked: GenerationRequest, sampling: SamplingParams) -> None:
        check_kind(Request(id="", prompt=[]), info.pooling)
        self.id = secrets.token_hex(12)
        self.name = asked.request_id or self.id
        self.created = int(time.time())
        self.model = front.model(asked.model)
        self.fingerprint = front.fingerprint(info)
        self.requests: list[Request] = []
        self.totals: dict[int, Assembler] = {}
        self.kept: frozenset[int] = frozenset()  # special tokens that stay in the text
        self.ends: frozenset[int] = frozenset()  # tokens that end the text, beside the model's own
        self.budget: Budget | None = None  # of reasoning
        self._client: EngineClient = front.client
        self._meter: Meter = front.meter
        self._tokenizer: Tokenizer | None = front.language.tokenizer
        self._info = info
        self._asked = asked
        self._sampling = sampling
        seed = sampling.fixed_seed
        self._seed = secrets.randbits(62) if seed is None else seed
        self.grammar = ""
        self.grammar_field = sampling.structured_outputs.where if sampling.structured_outputs else ""
        self._began = time.monotonic()
        front.check_priority(asked.priority)
        self._deadline = None if asked.deadline_ms is None else self._began + asked.deadline_ms / 1000
        self._breakers = front.language.breakers
        if sampling.dry:
            required(self._tokenizer)
        check_processors(sampling, info.logits_processors)
        self._work = front.language.work
        self._found: dict[int, Output] = {}  # by choice, of a beam search
        if asked.use_beam_search:
            params_of(sampling, asked.length_penalty, 1)
        self._bad_words = spelled(sampling.bad_words, self._tokenizer)
        check_sampling_tokens(sampling, info.vocab)

    async def form(self) -> str:
        """Read what the answer must look like, beside the loop. Raises UserError."""
        asked, tokenizer = self._sampling.structured_outputs, self._tokenizer
        if asked is not None:
            self.grammar = await self._work(1, lambda: grammar_of(asked, tokenizer), inline=0)
        return self.grammar

    def add(self, field: str, prompt: list[int], default_tokens: int | None) -> list[int]:
        """Add the choices of one prompt; `default_tokens` None: as many as fit. Raises UserError.

        Gives what `truncate_prompt_tokens` leaves of the prompt.
        """
        room = self._info.max_len - (self._sampling.max_tokens or default_tokens or 1)
        prompt = last_tokens(prompt, self._sampling.truncate_prompt_tokens, room)
        sampling = msgspec.structs.replace(
            self._sampling,
            n=1,
            max_tokens=self._room(field, prompt, default_tokens),
            structured_outputs=None,
        )
        if self._asked.use_beam_search and (self.grammar or self.budget):
            raise InvalidValue("use_beam_search", True, "only where no tools or reasoning shape the answer")
        if len(self.requests) + self._sampling.n > MAX_CHOICES:
            raise UserError(f"prompts times n may be at most {MAX_CHOICES}", "n", "too_many_choices")
        eos = sorted(
            {*self.ends, *self._info.eos_ids, *(self._tokenizer.eos_ids if self._tokenizer is not None else ())}
        )
        first = len(self.requests)
        for choice in range(self._sampling.n):
            request = Request(
                id=f"{self.id}-{len(self.requests)}",
                prompt=prompt,
                sampling=sampling,
                eos_ids=eos,
                seed=choice_seed(self._seed, choice),
                priority=self._asked.priority,
                salt=self._asked.cache_salt,
                grammar=self.grammar,
                grammar_field=self.grammar_field,
                bad_words=self._bad_words,
                after=f"{self.id}-{first}" if choice else "",
            )
            self.requests.append(request)
        return prompt

    def _room(self, field: str, prompt: list[int], default_tokens: int | None) -> int:
        """The most tokens to generate. Raises UserError where prompt and what was asked do not fit."""
        longest = self._info.max_len
        room = longest - len(prompt)
        asked = self._sampling.max_tokens
        if not prompt:
            raise InvalidValue(field, "", "a prompt of at least one token")
        if room < (asked or 1):
            wanted = f" and {asked} tokens to generate" if asked is not None else ""
            message = f"{field}: {len(prompt)} prompt tokens{wanted} do not fit; the model takes {longest} in all"
            raise UserError(message, field, "context_length_exceeded")
        check_ids(field, prompt, self._info.vocab)
        return asked if asked is not None else min(room, default_tokens or room)

    async def run(self, take: Take) -> None:
        """Give everything the engine gives to `take`, as it comes.

        Raises QueueFull, InvalidValue and Unavailable as the engine does, EngineFault where it fails.
        """
        if self._sampling.dry:
            await self._break()
        if self._asked.use_beam_search:
            n = self._sampling.n
            await together([self._search(first) for first in range(0, len(self.requests), n)])
        if len(self.requests) == 1:
            await self._one(0, take)
        else:
            await together([self._one(index, take) for index in range(len(self.requests))])
        self._meter.request_seconds.observe(time.monotonic() - self._began)

    async def _break(self) -> None:
        """Give the requests their sequence breakers, which takes reading the vocabulary."""
        breakers, texts = self._breakers, self._sampling.dry_sequence_breakers
        assert breakers is not None
        tokens = await self._work(self._info.vocab, lambda: breakers.of(texts), inline=0)
        self.requests = [msgspec.structs.replace(request, dry_breakers=tokens) for request in self.requests]

    async def _search(self, first: int) -> None:
        """Find the choices of the prompt whose first choice this is."""
        request = self.requests[first]
        params = params_of(self._sampling, self._asked.length_penalty, request.sampling.max_tokens or 1)
        for index, output in enumerate(await best_beams(self._client.generate, request, params), first):
            self._found[index] = output

    async def _one(self, index: int, take: Take) -> None:
        """One choice to its end."""
        request = self.requests[index]
        total = self.totals[index] = Assembler(self._tokenizer, request.sampling, request.prompt, self.kept)
        last, reason = self._began, "abort"
        try:
            async with aclosing(self._outputs(request)) as outputs:
                async for output in outputs:
                    first, delta = not total.tokens, total.push(output)
                    if delta.finish is not None:
                        reason = delta.finish
                        check_end(delta, request.grammar_field)
                    if delta.tokens:
                        now = time.monotonic()
                        self._meter.tokens(len(delta.tokens), now - last, first=first)
                        last = now
                    await take(Piece(index, delta, total))
                    if delta.finish is not None:
                        return
        finally:
            self._meter.finished(reason)

    def _outputs(self, request: Request) -> AsyncGenerator[Output, None]:
        if self._found:
            return _given(self._found[self.requests.index(request)])
        generate = self._client.generate
        outputs = generate(request) if self.budget is None else within(self.budget, generate, request)
        return outputs if self._deadline is None else _until(self._deadline, outputs, request.id)


async def _given(output: Output) -> AsyncGenerator[Output, None]:
    """An output that is known already."""
    yield output


async def _until(deadline: float, outputs: AsyncGenerator[Output, None], id: str) -> AsyncGenerator[Output, None]:
    """Outputs of a request to their end or, at the deadline, to ours. Seconds of time.monotonic."""
    async with aclosing(outputs):
        while True:
            try:
                yield await asyncio.wait_for(outputs.__anext__(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                yield Output(id=id, finish="length", stop_reason=DEADLINE)
                return
            except StopAsyncIteration:
                return
