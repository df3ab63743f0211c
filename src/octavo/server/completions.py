"""/v1/completions: prompts to token ids, pieces to chunks, chunks to an answer.

Invariant: the whole answer is the sum of the chunks a stream would have had.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from octavo.core.plan import TokenLogprob
from octavo.core.status import EngineInfo
from octavo.protocol.completions import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from octavo.protocol.usage import Usage
from octavo.server.front import Front
from octavo.server.generation import Call, Piece
from octavo.server.logprobs import Offsets, TokenNames, completion_logprobs, prompt_logprobs
from octavo.server.stencil import HOLE, Stencil
from octavo.text.infill import Infill


class CompletionCall:
    """One call of the endpoint. Made by `open`; then either `whole` or `stream`, once."""

    def __init__(self, front: Front, info: EngineInfo, asked: CompletionRequest) -> None:
        self._front = front
        self._asked = asked
        self._sampling = asked.sampling()
        self._scores_only = asked.max_tokens == 0
        if self._scores_only:  # the engine gives at least one token; it is dropped
            self._sampling = msgspec.structs.replace(self._sampling, max_tokens=1)
        self._best_of = asked.best_of not in (None, asked.n)
        if self._best_of:
            logprobs = 0 if asked.logprobs is None else asked.logprobs
            self._sampling = msgspec.structs.replace(self._sampling, n=asked.best_of, logprobs=logprobs)
        self._call = Call(front, info, asked, self._sampling)
        self._names = TokenNames(front.language.tokenizer, numbered=asked.return_tokens_as_token_ids)
        self._texts: list[str] = []  # of the prompts, where they are echoed
        self._marks: list[int | None] = []  # beside them: tokens before a text that is as it was given; None: decoded
        self._size = sum(len(prompt) for prompt in asked.prompt)  # of all prompts together, in characters or tokens
        self._offsets: dict[int, Offsets] = {}  # by choice; a choice has an entry once its first piece came

    @classmethod
    async def open(cls, front: Front, info: EngineInfo, asked: CompletionRequest) -> CompletionCall:
        """Check the request and make its prompts ready. Raises UserError."""
        call = cls(front, info, asked)
        await call._call.form()
        listed = len(asked.prompt) > 1
        for place, prompt in enumerate(asked.prompt):
            field = f"prompt[{place}]" if listed else "prompt"
            await call._prepare(field, prompt)
        return call

    async def _prepare(self, field: str, prompt: str | list[int]) -> None:
        language, special = self._front.language, self._asked.add_special_tokens
        if suffix := self._asked.suffix:
            tokenizer = language.required("suffix")
            infill = Infill.of(tokenizer)
            self._call.ends = infill.ends
            size = self._size + len(suffix)
            tokens = await language.work(size, lambda: infill.prompt(tokenizer, prompt, suffix, special=special))
        elif isinstance(prompt, str):
            tokenizer = language.required(field)
            tokens = await language.work(self._size, lambda: tokenizer.encode(prompt, special=special))
        else:
            tokens = prompt
        whole, tokens = len(tokens), self._call.add(field, tokens, DEFAULT_MAX_TOKENS)
        if not self._asked.echo:
            return
        if isinstance(prompt, str) and len(tokens) == whole:
            assert language.tokenizer is not None
            self._texts.append(prompt)
            self._marks.append(language.tokenizer.marks_before if special else 0)
            return
        self._marks.append(None)
        if language.tokenizer is None:
            self._texts.append("")
        else:
            decode, skip = language.tokenizer.decode, self._asked.skip_special_tokens
            self._texts.append(await language.work(self._size, lambda: decode(tokens, skip_special=skip)))

    async def whole(self) -> bytes:
        """The JSON of the answer, when all is done."""
        choices: dict[int, CompletionChoice] = {}

        async def take(piece: Piece) -> None:
            news = await self._choice(piece)
            if piece.index in choices:
                _add(choices[piece.index], news)
            else:
                choices[piece.index] = news

        await self._call.run(take)
        given = self._best(choices) if self._best_of else [choices[index] for index in sorted(choices)]
        return self._encoded(given, self._usage())

    def _best(self, choices: dict[int, CompletionChoice]) -> list[CompletionChoice]:
        """Of each prompt's choices the `n` of the largest log-probability per token, numbered anew."""
        made, wanted, totals = self._sampling.n, self._asked.n, self._call.totals
        best: list[CompletionChoice] = []

        def mean(index: int) -> float:
            return totals[index].cumulative_logprob / max(1, len(totals[index].tokens))

        for first in range(0, len(choices), made):
            ranked = sorted(range(first, first + made), key=lambda index: -mean(index))
            best.extend(choices[index] for index in ranked[:wanted])
        for index, choice in enumerate(best):
            choice.index = index
        return best

    async def stream(self, put: Callable[[bytes], None]) -> None:
        """Give the JSON of each chunk to `put`."""
        options = self._asked.stream_options
        wanted, each = bool(options and options.include_usage), bool(options and options.continuous_usage_stats)
        usage: msgspec.UnsetType | None = None if wanted else UNSET
        asked = self._asked
        plain = asked.logprobs is None and not (asked.return_token_ids or each or self._scores_only)
        stencils: dict[int, Stencil] = {}  # for the chunks that differ in nothing but their text: nearly all

        async def take(piece: Piece) -> None:
            if plain and piece.index in stencils and piece.delta.finish is None:
                if piece.delta.text:
                    put(stencils[piece.index].fill(piece.delta.text))
                return
            news = await self._choice(piece)
            if piece.index not in stencils:
                stencils[piece.index] = Stencil(self._encoded([CompletionChoice(piece.index, HOLE)], usage))
            if news.text or news.finish_reason or news.logprobs is not None or news.token_ids:
                put(self._encoded([news], self._usage() if each else usage))

        await self._call.run(take)
        if wanted:
            put(self._encoded([], self._usage()))

    def _encoded(self, choices: list[CompletionChoice], usage: Usage | msgspec.UnsetType | None) -> bytes:
        call = self._call
        id = f"cmpl-{call.name}"
        return msgspec.json.encode(Completion(id, call.created, call.model, call.fingerprint, choices, usage))

    def _usage(self) -> Usage:
        n, totals = self._sampling.n, self._call.totals
        prompt = sum(len(request.prompt) for request in self._call.requests[::n])
        cached = sum(totals[index].cached for index in range(0, len(self._call.requests), n) if index in totals)
        completion = 0 if self._scores_only else sum(len(total.tokens) for total in totals.values())
        return Usage.of(prompt, completion, cached)

    async def _choice(self, piece: Piece) -> CompletionChoice:
        """What a piece adds to its choice; with the first one comes what is said of the prompt."""
        delta, index, asked = piece.delta, piece.index, self._asked
        choice = CompletionChoice(index, delta.text)
        tokens = delta.tokens
        if self._scores_only:
            choice.text, tokens = "", []
        if first := index not in self._offsets:
            self._offsets[index] = self._offsets_of(index)
        if asked.return_token_ids:
            choice.token_ids = tokens
        if asked.logprobs is not None and tokens:
            choice.logprobs = completion_logprobs(self._names, tokens, delta.logprobs, self._offsets[index])
        if first:
            await self._front.language.work(len(self._call.requests[index].prompt), lambda: self._begin(choice, piece))
        choice.finish_reason = "length" if self._scores_only and delta.finish else delta.finish
        choice.stop_reason = None if self._scores_only else delta.stop_reason
        return choice

    def _offsets_of(self, index: int) -> Offsets:
        start = len(self._texts[index // self._sampling.n]) if self._asked.echo else 0
        tokenizer, prompt = self._front.language.tokenizer, self._call.requests[index].prompt
        return Offsets(tokenizer, skip_special=self._asked.skip_special_tokens, start=start, prompt=prompt)

    def _begin(self, choice: CompletionChoice, piece: Piece) -> None:
        """Put before a choice's first piece what is said of its prompt: its echo, its ids, its log-probabilities."""
        asked, entries = self._asked, piece.total.prompt_logprobs
        prompt = self._call.requests[choice.index].prompt
        if asked.echo:
            choice.text = self._texts[choice.index // self._sampling.n] + choice.text
        if asked.echo and asked.logprobs is not None:
            marks = self._marks[choice.index // self._sampling.n]
            skip = asked.skip_special_tokens and marks is None  # special tokens that were written are shown
            offsets = Offsets(self._front.language.tokenizer, skip_special=skip, hidden=marks or 0)
            shape = completion_logprobs(self._names, prompt, [None, *_narrowed(entries, asked.logprobs)], offsets)
            if choice.logprobs is not None:
                _join(shape, choice.logprobs)
            choice.logprobs = shape
        if asked.return_token_ids:
            choice.prompt_token_ids = prompt
        if asked.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(self._names, _narrowed(entries, asked.prompt_logprobs))


def _narrowed(entries: list[TokenLogprob], count: int) -> list[TokenLogprob]:
    """The entries with at most `count` alternatives: echo and prompt_logprobs may have asked for different numbers."""
    if all(len(entry.top) <= count for entry in entries):
        return entries
    return [TokenLogprob(entry.token, entry.logprob, entry.rank, entry.top[:count]) for entry in entries]


def _add(choice: CompletionChoice, news: CompletionChoice) -> None:
    """Append a chunk's choice to the whole one."""
    choice.text += news.text
    choice.finish_reason, choice.stop_reason = news.finish_reason, news.stop_reason
    if isinstance(choice.token_ids, list) and isinstance(news.token_ids, list):
        choice.token_ids += news.token_ids
    if choice.logprobs is None:
        choice.logprobs = news.logprobs
    elif news.logprobs is not None:
        _join(choice.logprobs, news.logprobs)


def _join(whole: CompletionLogprobs, news: CompletionLogprobs) -> None:
    whole.tokens += news.tokens
    whole.token_logprobs += news.token_logprobs
    whole.top_logprobs += news.top_logprobs
    whole.text_offset += news.text_offset
