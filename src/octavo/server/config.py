"""What can be set of the HTTP front, as one frozen value. Light: the command line reads its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import InvalidValue
from octavo.text.parsers import registry


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how to serve.

    names: the model's names in the API, the first is its own. api_keys: who may call; empty: everybody. max_body_bytes:
    largest request body. max_requests: API requests in work at once. drain_seconds: time to finish at the end.
    stall_seconds: how long a client may leave its stream unread, body_seconds: how long it may take to send a body.
    backlog_bytes: most bytes of one stream that wait to be sent. heartbeat_seconds: age of the engine's last sign of
    life from which it is not ready. metrics_compat: "none" or "vllm". priorities: whether the scheduler heeds them.
    trust_request_chat_template: whether a request may bring a template. ignore_unknown: take requests with parameters
    that we do not know, and name them in the header x-octavo-ignored. tool_call_parser, reasoning_parser: how calls of
    tools and reasoning are read out of a chat's answer; auto: as the chat template has it.
    """

    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 2**20
    max_requests: int = 2048
    drain_seconds: float = 30.0
    stall_seconds: float = 60.0
    body_seconds: float = 60.0
    backlog_bytes: int = 2**20
    heartbeat_seconds: float = 30.0
    metrics_compat: str = "none"
    priorities: bool = False
    trust_request_chat_template: bool = False
    ignore_unknown: bool = False
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise InvalidValue("names", self.names, "at least one name, none of them empty")
        if not all(self.api_keys):
            raise InvalidValue("api_keys", "", "keys that are not empty")
        if not 0 <= self.port < 2**16:
            raise InvalidValue("port", self.port, "an integer from 0 to 65535")
        for field in ("max_body_bytes", "max_requests", "backlog_bytes"):
            if getattr(self, field) < 1:
                raise InvalidValue(field, getattr(self, field), "an integer of 1 or more")
        for field in ("drain_seconds", "stall_seconds", "body_seconds", "heartbeat_seconds"):
            if not 0 <= getattr(self, field) < 1e9:
                raise InvalidValue(field, getattr(self, field), "a number of seconds, 0 or more")
        for field, rows in (("tool_call_parser", registry.TOOLS), ("reasoning_parser", registry.REASONING)):
            if getattr(self, field) not in registry.names(rows):
                raise InvalidValue(field, getattr(self, field), "one of " + ", ".join(registry.names(rows)))
        if self.metrics_compat not in ("none", "vllm"):
            raise InvalidValue("metrics_compat", self.metrics_compat, "none or vllm")
