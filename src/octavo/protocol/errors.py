"""The error body of the OpenAI API: {"error": {"message", "type", "param", "code"}}.

Invariant: an error body is short, valid UTF-8, and says nothing of our files, memory or stack.
"""

from __future__ import annotations

import msgspec

from octavo.core.errors import EngineFault, OctavoError, Unavailable, UserError

LONGEST = 1000  # characters of a message

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ErrorDetails(msgspec.Struct):
    """What went wrong. `param` is the field at fault, if it is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorDetails


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """The JSON text of one error."""
    details = ErrorDetails(
        message=_plain(message, LONGEST),
        type=_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        param=None if param is None else _plain(param, 200),
        code=code or _code(status),
    )
    return msgspec.json.encode(ErrorBody(details))


def body_of(error: Exception) -> tuple[int, bytes]:
    """HTTP status and body of what was raised. What is not ours is a 500 that tells nothing."""
    if isinstance(error, UserError):
        return error.status, error_body(error.status, str(error), error.field, error.code)
    if isinstance(error, (EngineFault, Unavailable)):
        return error.status, error_body(error.status, str(error))
    if isinstance(error, OctavoError):
        return 503, error_body(503, str(error))
    return 500, error_body(500, "internal error; the server's log has the details")


def _code(status: int) -> str | None:
    return {404: "not_found", 413: "body_too_large", 429: "queue_full", 503: "unavailable"}.get(status)


def _plain(text: str, longest: int) -> str:
    """Valid UTF-8 of bounded length."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= longest else text[: longest - 3] + "..."
