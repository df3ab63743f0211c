"""Every error Octavo raises on purpose. User errors and engine faults never share a type.

OctavoError
├── UserError                 the caller's doing; `status` is the HTTP answer
│   ├── InvalidValue      400 a field holds a value it cannot hold
│   ├── UnknownModel      404 no such model
│   ├── TooLarge          413 the body is larger than the server reads
│   └── QueueFull         429 more requests wait than `--max-queued` admits
├── ModelError                a model that is damaged, missing or of an unsupported kind; the CLI exits with 2
└── EngineFault               our doing
    └── Unavailable       503 the engine is loading, restarting, draining or dead
"""

from __future__ import annotations

from typing import Any


class OctavoError(Exception):
    """Root of all errors raised on purpose."""


class UserError(OctavoError):
    """The caller can mend it. `field` names the parameter at fault, where one is; `code` is the OpenAI error code."""

    status = 400

    def __init__(self, message: str, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


class InvalidValue(UserError):
    """`field` holds `value`; `accepted` says what would do."""

    def __init__(self, field: str, value: Any, accepted: str) -> None:
        shown = repr(value)
        if len(shown) > 100:
            shown = shown[:97] + "..."
        super().__init__(f"{field}: {shown} is not accepted; {accepted}", field, "invalid_value")
        self.value = value
        self.accepted = accepted


class UnknownModel(UserError):
    """The request names a model that is not served here."""

    status = 404


class TooLarge(UserError):
    """The request body exceeds the limit."""

    status = 413


class QueueFull(UserError):
    """More requests wait than the server admits; try again later."""

    status = 429


class ModelError(OctavoError):
    """A model that cannot be served: damaged, missing, or of an unsupported kind. The message is one line."""


class EngineFault(OctavoError):
    """Our fault, not the caller's."""

    status = 500


class Unavailable(EngineFault):
    """The engine cannot take requests now: loading, restarting, draining, or dead."""

    status = 503
