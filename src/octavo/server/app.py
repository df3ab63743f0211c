"""The ASGI application: routes, errors, and the life of engine and language behind them.

Invariant: status is answered from the first moment to the last, whatever the engine does; every error, from wherever it
is raised, has the OpenAI API's error body. The application holds no model and does no arithmetic.

/live says that this process answers; /ready (and /health) that requests are accepted now. /v1/*, /tokenize and
/detokenize want a key where keys are set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import octavo
from octavo.core.errors import OctavoError
from octavo.core.status import EngineInfo
from octavo.protocol.chat import NEUTRAL_CHAT, ChatRequest
from octavo.protocol.completions import NEUTRAL_COMPLETION, CompletionRequest
from octavo.protocol.errors import body_of, error_body
from octavo.protocol.models import ModelCard, ModelList
from octavo.protocol.openapi import encoded
from octavo.protocol.pooling import (
    ClassifyRequest,
    EmbeddingRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
)
from octavo.protocol.status import Live, Readiness, Version
from octavo.protocol.tokens import DetokenizeRequest, TokenizeRequest
from octavo.protocol.wire import decode, read
from octavo.server.body import read_body
from octavo.server.chat import ChatCall
from octavo.server.completions import CompletionCall
from octavo.server.config import ServerConfig
from octavo.server.front import Front
from octavo.server.guard import Guard
from octavo.server.pooling import classified, embedded, pooled, ranked, scored
from octavo.server.reference import POLICY, page
from octavo.server.sse import ClientGone, EventStream, unless_gone
from octavo.server.text import Language
from octavo.server.tokens import detokenized, tokenized
from octavo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from octavo.engine.client import EngineClient

M = TypeVar("M", bound=BaseModel)
N = TypeVar("N", bound=BaseModel)  # with a request_id
logger = logging.getLogger("octavo.server")
JSON_INLINE = 2**16  # bytes of a body that is read in the event loop: about a millisecond
RETRY_SECONDS = {429: "1", 503: "5"}


def create_app(client: EngineClient, load: Callable[[], Tokenizer | None], config: ServerConfig) -> Starlette:
    """The application. `load` gives the model's tokenizer; it runs in a thread, beside the engine's start.

    The lifespan starts both in the background and, at the end, drains. `app.state.front` is the Front.
    """
    front = Front(client, Language(load), config)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        starting = asyncio.create_task(front.start())
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await front.drain(0.0 if front.draining else config.drain_seconds)

    routes = Routes(front)
    app = Starlette(
        routes=[
            *(Route(path, get, methods=["GET"]) for path, get in routes.gets().items()),
            *(Route(path, _telling(post), methods=["POST"]) for path, post in routes.posts().items()),
        ],
        middleware=[Middleware(Guard, front=front)],
        exception_handlers=dict.fromkeys((OctavoError, HTTPException, ClientGone), _refused),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.front = front
    return app


def _telling(post: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, naming in a header what it ignored."""

    async def answered(request: Request) -> Response:
        request.state.ignored = []
        response = await post(request)
        if request.state.ignored:
            response.headers["x-octavo-ignored"] = ",".join(
                quote(name[:64]) for name in list(dict.fromkeys(request.state.ignored))[:32]
            )
        return response

    return answered


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to what was raised."""
    if isinstance(error, ClientGone):
        return Response(status_code=499)  # nobody reads it; nginx' number for this case, for the count
    if isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
        return _json(
            error_body(status, f"{request.method} {request.scope['path'][:200]}: {error.detail}"), status, headers
        )
    status, body = body_of(error)
    if status == 500:
        logger.error("a request failed: %s", error)
    return _json(body, status, {"retry-after": RETRY_SECONDS[status]} if status in RETRY_SECONDS else None)


class Routes:
    """The endpoints of one front."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def gets(self) -> dict[str, Callable[..., Any]]:
        """Endpoints by path that answer GET."""
        return {
            "/live": self.live,
            "/ready": self.ready,
            "/health": self.ready,
            "/version": self.version,
            "/metrics": self.metrics,
            "/v1/models": self.models,
            "/v1/models/{name:path}": self.model,
            "/openapi.json": self.openapi,
            "/docs": self.docs,
        }

    def posts(self) -> dict[str, Callable[..., Any]]:
        """Endpoints by path that answer POST."""
        return {
            "/v1/completions": self.completions,
            "/v1/chat/completions": self.chat,
            "/v1/embeddings": self.embeddings,
            "/pooling": self.pooling,
            "/classify": self.classify,
            **dict.fromkeys(("/score", "/v1/score"), self.score),
            **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), self.rerank),
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
        }

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return _json(msgspec.json.encode(Live()))

    async def ready(self, request: Request) -> Response:
        """Whether requests are accepted now, and how far loading is."""
        front, status = self._front, self._front.status()
        trouble = front.trouble()
        failure = front.failure
        state = "draining" if front.draining else "failed" if failure is not None else status.state
        report = Readiness(
            status=("stalled" if state == "ready" else state) if trouble else "ready",
            detail=str(failure) if isinstance(failure, OctavoError) else trouble,
            progress=status.progress,
            tokenizer=front.language.state,
            heartbeat_age_seconds=round(status.heartbeat_age, 3),
            restarts=status.restarts,
        )
        headers = {"retry-after": RETRY_SECONDS[503]} if trouble else None
        return _json(msgspec.json.encode(report), 503 if trouble else 200, headers)

    async def version(self, request: Request) -> Response:
        """Our version."""
        return _json(msgspec.json.encode(Version(octavo.__version__)))

    async def metrics(self, request: Request) -> Response:
        """The page for Prometheus."""
        return Response(self._front.meter.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """All endpoints, for programs."""
        return _json(encoded(octavo.__version__))

    async def docs(self, request: Request) -> Response:
        """All endpoints, for people."""
        return Response(page(octavo.__version__), headers={"content-security-policy": POLICY}, media_type="text/html")

    async def models(self, request: Request) -> Response:
        """All names of the model."""
        return _json(msgspec.json.encode(ModelList([self._card(name) for name in self._front.config.names])))

    async def model(self, request: Request) -> Response:
        """One name of the model."""
        return _json(msgspec.json.encode(self._card(self._front.model(request.path_params["name"]))))

    def _card(self, name: str) -> ModelCard:
        front = self._front
        info = front.status().info
        return ModelCard(name, front.created, front.config.names[0], None if info is None else info.max_len)

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        info = self._front.accept()
        asked = await self._named(request, CompletionRequest, NEUTRAL_COMPLETION)
        call = await CompletionCall.open(self._front, info, asked)
        return await self._answer(request, call, asked.stream)

    async def chat(self, request: Request) -> Response:
        """Continue a conversation."""
        info = self._front.accept()
        asked = await self._named(request, ChatRequest, NEUTRAL_CHAT)
        call = await ChatCall.open(self._front, info, asked)
        return await self._answer(request, call, asked.stream)

    async def embeddings(self, request: Request) -> Response:
        """Embeddings of texts."""
        return await self._pooled(request, EmbeddingRequest, embedded)

    async def pooling(self, request: Request) -> Response:
        """Whatever the model gives of texts."""
        return await self._pooled(request, PoolingRequest, pooled)

    async def classify(self, request: Request) -> Response:
        """Labels of texts."""
        return await self._pooled(request, ClassifyRequest, classified)

    async def score(self, request: Request) -> Response:
        """Scores of pairs of texts."""
        return await self._pooled(request, ScoreRequest, scored)

    async def rerank(self, request: Request) -> Response:
        """Documents in the order of their scores."""
        return await self._pooled(request, RerankRequest, ranked)

    async def _pooled(
        self, request: Request, kind: type[N], answered: Callable[[Front, EngineInfo, N], Awaitable[bytes]]
    ) -> Response:
        info = self._front.accept()
        asked = await self._named(request, kind)
        return _json(await unless_gone(request.receive, answered(self._front, info, asked)))

    async def tokenize(self, request: Request) -> Response:
        """Text to token ids."""
        return _json(await tokenized(self._front, await self._asked(request, TokenizeRequest)))

    async def detokenize(self, request: Request) -> Response:
        """Token ids to text."""
        return _json(await detokenized(self._front, await self._asked(request, DetokenizeRequest)))

    async def _asked(self, request: Request, kind: type[M], neutral: dict[str, tuple[Any, ...]] | None = None) -> M:
        """The checked request in a body."""
        config, language = self._front.config, self._front.language
        body = await read_body(request, limit=config.max_body_bytes, seconds=config.body_seconds)
        unknown = request.state.ignored if config.ignore_unknown else None
        return await language.work(len(body), lambda: read(kind, decode(body), neutral, unknown), inline=JSON_INLINE)

    async def _named(self, request: Request, kind: type[N], neutral: dict[str, tuple[Any, ...]] | None = None) -> N:
        """The checked request in a body, with the name that its header gives it."""
        asked = await self._asked(request, kind, neutral)
        name = request.headers.get("x-request-id")  # judged by the guard
        return asked.model_copy(update={"request_id": name}) if name else asked

    async def _answer(self, request: Request, call: CompletionCall | ChatCall, stream: bool) -> Response:
        """The whole answer, or its stream once the engine gave the first output: until then an error has its status."""
        if not stream:
            return _json(await unless_gone(request.receive, call.whole()))
        config = self._front.config
        answer = EventStream(call.stream, stall_seconds=config.stall_seconds, backlog_bytes=config.backlog_bytes)
        await answer.open(request.receive)
        return answer
