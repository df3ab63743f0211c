"""What every HTTP request passes on its way in and out: a request id, the key, the count, the last net.

Invariant: a path that is not in `OPEN` needs a key where keys are set, whether or not there is such a path, and counts
against `max_requests`. Only the raw path of the connection is looked at, never a URL put together from headers. Nothing
that is raised below gets past here without an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.core.errors import InvalidValue, QueueFull
from octavo.protocol.errors import body_of, error_body
from octavo.protocol.generation import request_name
from octavo.server.front import Front

logger = logging.getLogger("octavo.server")

OPEN = frozenset({"/live", "/ready", "/health", "/version", "/metrics", "/openapi.json", "/docs"})
CLOSED = frozenset(
    {"/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}
    | {"/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"}
)


class Guard:
    """The outermost layer. The request id is the caller's x-request-id, or a new one where there is none.

    One that cannot be a name (`request_name`) is refused, whatever the path.
    """

    def __init__(self, app: ASGIApp, *, front: Front) -> None:
        self._app = app
        self._front = front
        self._keys = [hashlib.sha256(key.encode()).digest() for key in front.config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = secrets.token_hex(16)
        path: str = scope["path"]
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                self._front.meter.answered(_template(path), message["status"])
            await send(message)

        try:
            if given:
                request_id = request_name("x-request-id", given)
            if path in OPEN:
                await self._app(scope, receive, marked)
            elif not self._allowed(headers.get(b"authorization", b"")):
                body = error_body(401, "this server needs a key: Authorization: Bearer KEY", code="invalid_api_key")
                await _refuse(marked, 401, body, (b"www-authenticate", b"Bearer"))
            else:
                with self._front.counted():
                    await self._app(scope, receive, marked)
        except InvalidValue as error:
            await _refuse(marked, error.status, body_of(error)[1])
        except QueueFull as error:
            await _refuse(marked, error.status, body_of(error)[1], (b"retry-after", b"1"))
        except Exception as error:
            logger.exception("request %s to %s failed", request_id, _template(path))
            if started:
                raise  # the server breaks the connection: the client must not take what it has for the whole
            await _refuse(marked, 500, body_of(error)[1])

    def _allowed(self, header: bytes) -> bool:
        if not self._keys:
            return True
        scheme, _, key = header.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        fits = [hmac.compare_digest(digest, own) for own in self._keys]  # all, so that time tells nothing
        return scheme.lower() == b"bearer" and any(fits)


def _template(path: str) -> str:
    """The path as a metric's label: ours, or "other"."""
    if path in OPEN or path in CLOSED:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"


async def _refuse(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    headers = ((b"content-type", b"application/json"), length, *headers)
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
