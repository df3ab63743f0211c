"""/v1/embeddings, /pooling, /classify, /score and /rerank: texts to token ids, vectors to answers.

Invariant: leaving a call in any way leaves none of its requests in the engine; of a call of many texts no more than
WINDOW are there at once, so that large batches fill the machine and not the queue. Its first text finds room in the
queue, or the call is refused; the others wait for room.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from octavo.core.errors import EngineFault, QueueFull, UserError
from octavo.core.plan import Output
from octavo.core.request import PoolingParams, Request
from octavo.core.status import EngineInfo, PoolingInfo, check_kind
from octavo.protocol.pooling import (
    Classifications,
    Classified,
    ClassifyRequest,
    Document,
    Embedding,
    EmbeddingRequest,
    Embeddings,
    PooledRequest,
    PooledVectors,
    PoolingRequest,
    Ranked,
    Ranking,
    RerankRequest,
    Score,
    ScoreRequest,
    Scores,
    VectorRequest,
    Vectors,
)
from octavo.protocol.usage import Usage
from octavo.server.chat import chat_tokens, check_template
from octavo.server.ends import check_end
from octavo.server.front import Front
from octavo.server.together import together
from octavo.text.pooled import PIECE, Pooled, cosine, joined, pieces_of, tokens_of

WINDOW = 128  # of one call's texts in the engine at once
AGAIN_SECONDS = 0.01  # between two texts of a call that are offered once more


ASKED = {"embed": "/v1/embeddings, /score, /rerank", "classify": "/classify", "score": "/score, /rerank"}  # by task


class PoolingCall:
    """One call: it makes requests of texts, runs them, and names itself in the answer."""

    def __init__(self, front: Front, info: EngineInfo, asked: PooledRequest, params: PoolingParams) -> None:
        """Raises UserError where the model does not give what is asked."""
        if isinstance(asked, PoolingRequest) or info.pooling is None:  # else nobody named a task
            check_kind(Request(id="", prompt=[], pooling=params), info.pooling)
        else:
            _check_endpoint(params, info.pooling)
        front.check_priority(asked.priority)
        self.id = secrets.token_hex(12)
        self.info = info
        self.params = params
        self._front = front
        self._asked = asked
        self._model = front.model(asked.model)
        self._began = time.monotonic()
        self._tokens = self._cached = 0
        self._again = asyncio.Lock()

    async def tokens(self, texts: Sequence[Any], made: Callable[[], list[Any]]) -> list[Any]:
        """Token ids of texts, made in the loop or, where they are long, beside it. Raises UserError."""
        self._front.language.check()
        return await self._front.language.work(sum(map(len, texts)), made)

    async def run(self, asked: Sequence[Pooled], params: PoolingParams) -> list[array[float]]:
        """What the engine gives of each, in order. Raises what it raises."""
        given: list[array[float]] = [array("f")] * len(asked)
        waiting = iter(enumerate(asked))

        async def work() -> None:
            for number, pooled in waiting:
                given[number] = await self._one(number, pooled, params)

        await together([work() for _ in range(min(WINDOW, len(asked)))])
        self._front.meter.request_seconds.observe(time.monotonic() - self._began)
        return given

    async def _one(self, number: int, pooled: Pooled, params: PoolingParams) -> array[float]:
        request = Request(
            id=f"{self.id}-{number}",
            prompt=pooled.ids,
            second=pooled.second,
            pooling=params,
            priority=self._asked.priority,
            salt=self._asked.cache_salt,
        )
        reason = "abort"
        try:
            output = await self._end(request, waits=number > 0)
            reason = output.finish or reason
            self._tokens += len(pooled.ids)
            self._cached += output.cached
            check_end(output)
            return array("f", output.vector)
        finally:
            self._front.meter.finished(reason)

    async def _end(self, request: Request, *, waits: bool) -> Output:
        """The one output of a request. waits: for room in the queue, in a row with the others of this call."""
        while True:
            try:
                async with aclosing(self._front.client.generate(request)) as outputs:
                    async for output in outputs:
                        if output.finish is not None:
                            return output
                raise EngineFault("the engine gave no vector")
            except QueueFull:
                if not waits:
                    raise
            async with self._again:
                await asyncio.sleep(AGAIN_SECONDS)

    def named(self, prefix: str) -> dict[str, Any]:
        """What every answer says of its call."""
        return {
            "id": f"{prefix}-{self._asked.request_id or self.id}",
            "model": self._model,
            "usage": Usage.of(self._tokens, 0, self._cached),
        }


async def embedded(front: Front, info: EngineInfo, asked: EmbeddingRequest) -> bytes:
    """The JSON of embeddings. Raises UserError."""
    asked.check()
    call = PoolingCall(front, info, asked, asked.params("embed"))
    field, texts, special = await _asked(front, asked)
    tokenizer = front.language.tokenizer
    if asked.enable_chunked_processing:
        fields = _fields(field, texts)
        pieces = await call.tokens(
            texts, lambda: [pieces_of(*each, tokenizer, info, special=special) for each in fields]
        )
        given = iter(await call.run([piece for each in pieces for piece in each], PIECE))
        vectors = [joined(each, [next(given) for _ in each], call.params, info) for each in pieces]
    else:
        vectors = await _inputs(call, front, field, texts, special=special)
    data = [Embedding(index, _shown(vector, asked.encoding_format)) for index, vector in enumerate(vectors)]
    return msgspec.json.encode(Embeddings(**call.named("embd"), created=int(time.time()), data=data))


async def pooled(front: Front, info: EngineInfo, asked: PoolingRequest) -> bytes:
    """The JSON of whatever the model gives. Raises UserError."""
    asked.check()
    call = PoolingCall(front, info, asked, asked.params(asked.task))
    field, texts, special = await _asked(front, asked)
    vectors = await _inputs(call, front, field, texts, special=special)
    width = 0
    if call.params.of_tokens:
        pooling = info.pooling
        assert pooling is not None
        width = len(pooling.labels) or min(asked.dimensions or pooling.width, pooling.width)
    data = []
    for index, vector in enumerate(vectors):
        shown: Any = _shown(vector, asked.encoding_format)
        if width and isinstance(shown, list):
            shown = [shown[at : at + width] for at in range(0, len(shown), width)]
        data.append(Vectors(index, shown))
    return msgspec.json.encode(PooledVectors(**call.named("pool"), created=int(time.time()), data=data))


async def classified(front: Front, info: EngineInfo, asked: ClassifyRequest) -> bytes:
    """The JSON of labels. Raises UserError."""
    call = PoolingCall(front, info, asked, asked.params("classify"))
    data = []
    vectors = await _inputs(call, front, "input", asked.input, special=asked.add_special_tokens)
    labels = info.pooling.labels if info.pooling else []
    for index, vector in enumerate(vectors):
        best = max(range(len(vector)), key=vector.__getitem__)
        data.append(Classified(index, labels[best], vector.tolist(), len(vector)))
    return msgspec.json.encode(Classifications(**call.named("classify"), created=int(time.time()), data=data))


async def scored(front: Front, info: EngineInfo, asked: ScoreRequest) -> bytes:
    """The JSON of scores of pairs. Raises UserError."""
    field, first, second = asked.pairs()
    call, scores = await _scores(front, info, asked, field, first, second)
    data = [Score(index, score) for index, score in enumerate(scores)]
    return msgspec.json.encode(Scores(**call.named("score"), created=int(time.time()), data=data))


async def ranked(front: Front, info: EngineInfo, asked: RerankRequest) -> bytes:
    """The JSON of documents in order. Raises UserError."""
    call, scores = await _scores(front, info, asked, "documents", [asked.query], asked.documents)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    results = [
        Ranked(place, scores[place], Document(asked.documents[place]) if asked.return_documents else None)
        for place in order[: asked.top_n or None]
    ]
    return msgspec.json.encode(Ranking(**call.named("rerank"), results=results))


def _check_endpoint(params: PoolingParams, pooling: PoolingInfo) -> None:
    """Raise UserError where the model does not give what an endpoint is for, or not as it is asked."""
    if params.task not in pooling.tasks:
        given = f"scores of labels, of which it has {len(pooling.labels)}" if pooling.labels else "embeddings"
        asked = [ASKED[task] for task in pooling.tasks if task in ASKED]
        raise UserError(f"this model gives {given}: ask {', '.join(asked)} or /pooling", "model", "wrong_kind_of_model")
    pooling.check(params)


async def _asked(front: Front, asked: VectorRequest) -> tuple[str, list[Any], bool]:
    """Which texts are asked, by which field, and whether with marks; a conversation is its tokens. Raises UserError."""
    if asked.messages is None:
        return "input", asked.input, asked.add_special_tokens is not False
    check_template(front, asked.chat_template)
    tokens = await chat_tokens(
        front.language,
        asked.messages,
        add_generation_prompt=asked.add_generation_prompt,
        add_special_tokens=asked.add_special_tokens is True,
        variables=asked.chat_template_kwargs,
        continue_final_message=asked.continue_final_message,
        chat_template=asked.chat_template,
        instead="give input",
    )
    return "messages", [tokens], False


async def _inputs(
    call: PoolingCall, front: Front, field: str, texts: list[Any], *, special: bool
) -> list[array[float]]:
    """What the engine gives of each text by itself."""
    tokenizer = front.language.tokenizer
    made = await call.tokens(
        texts,
        lambda: [
            tokens_of(name, text, tokenizer, call.info, call.params, special=special)
            for name, text in _fields(field, texts)
        ],
    )
    return await call.run(made, call.params)


async def _scores(
    front: Front, info: EngineInfo, asked: PooledRequest, field: str, first: list[str], second: list[str]
) -> tuple[PoolingCall, list[float]]:
    """How well texts go together; one alone in `first` goes with all."""
    tokenizer, pairs = front.language.tokenizer, info.pooling is None or bool(info.pooling.labels)
    call = PoolingCall(front, info, asked, asked.params("score" if pairs else "embed"))
    if pairs:
        firsts = first * (len(second) // len(first))

        def made() -> list[Pooled]:
            return [
                tokens_of(place, one, tokenizer, info, call.params, second=other)
                for one, (place, other) in zip(firsts, _fields(field, second), strict=True)
            ]

        vectors = await call.run(await call.tokens([*firsts, *second], made), call.params)
        return call, [vector[0] for vector in vectors]
    texts = [*first, *second]
    fields = [("query", text) for text in first] + _fields(field, second)
    tokens = await call.tokens(
        texts, lambda: [tokens_of(place, text, tokenizer, info, call.params) for place, text in fields]
    )
    vectors = await call.run(tokens, call.params)
    ahead, behind = vectors[: len(first)], vectors[len(first) :]
    return call, [cosine(ahead[place % len(ahead)], vector) for place, vector in enumerate(behind)]


def _fields(field: str, texts: list[Any]) -> list[tuple[str, Any]]:
    """Each text with its name for errors."""
    if len(texts) == 1:
        return [(field, texts[0])]
    return [(f"{field}[{place}]", text) for place, text in enumerate(texts)]


def _shown(vector: array[float], form: str) -> list[float] | str:
    """Numbers as the caller wants them."""
    return base64.b64encode(vector.tobytes()).decode() if form == "base64" else vector.tolist()
