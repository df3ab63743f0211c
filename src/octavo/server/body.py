"""Reading a request's body, and no more of it than is allowed.

Invariant: at most `limit` bytes, and one more message of the connection, are ever held; a body that comes too slowly
is given up.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from octavo.core.errors import TooLarge, UserError
from octavo.server.sse import ClientGone


class UnsupportedMedia(UserError):
    """The body is of a kind that is not read."""

    status = 415


class TooSlow(UserError):
    """The body did not come in time."""

    status = 408


async def read_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """The whole body. Raises TooLarge, UnsupportedMedia, TooSlow or ClientGone."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a browser cannot send this type across origins without asking first: no page may drive a server on localhost
        raise UnsupportedMedia(f"content-type {kind[:100]!r} is not read; send application/json", "content-type")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMedia(f"content-encoding {coding[:100]!r} is not read; send it plain", "content-encoding")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    try:
        return await asyncio.wait_for(_received(request, limit), seconds)
    except asyncio.TimeoutError:
        raise TooSlow(f"the body was not complete after {seconds:g} s") from None


async def _received(request: Request, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes, the most this server reads")
