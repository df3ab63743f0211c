"""/tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field, WithJsonSchema, field_validator

from octavo.core.errors import UserError
from octavo.protocol.calls import MAX_TOOLS, Tool
from octavo.protocol.chat import MAX_MESSAGES, Message, check_instead, template_variables
from octavo.protocol.completions import token_ids
from octavo.protocol.wire import STRICT, TOKENS, unicode


class TokenizeRequest(BaseModel):
    """Either `prompt` or `messages`. `add_special_tokens` is true for a prompt, false for messages, unless given."""

    model_config = STRICT

    model: str | None = None
    """One of the names the server goes by; left out: the model that is served."""
    prompt: str | None = None
    """A text."""
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    """Or a conversation, which the chat template writes."""
    add_special_tokens: bool | None = None
    """Add the model's marks; left out: around a prompt, not around a conversation."""
    add_generation_prompt: bool = True
    """Let the template begin the answer."""
    continue_final_message: bool = False
    """The last message stays open, as for an answer that goes on with it. Only with add_generation_prompt false."""
    chat_template: str | None = Field(None, min_length=1)
    """Instead of the model's; the server must allow it."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables for the chat template."""
    tools: list[Tool] = Field([], max_length=MAX_TOOLS)
    """What the chat template shows the model as tools."""
    return_token_strs: bool = False
    """Give the text of each token too."""

    @field_validator("prompt")
    @classmethod
    def _text(cls, value: str) -> str:
        return unicode("prompt", value)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return template_variables(value)

    def check(self) -> None:
        """Exactly one of the two; what belongs to messages, with them. Raises UserError."""
        if self.prompt is None and self.messages is None:
            raise UserError("prompt or messages is required", "prompt", "missing_required_parameter")
        check_instead(self, "prompt", "continue_final_message", "chat_template")


class DetokenizeRequest(BaseModel):
    """Token ids to turn into text, special tokens included."""

    model_config = STRICT

    model: str | None = None
    """One of the names the server goes by; left out: the model that is served."""
    tokens: Annotated[Any, WithJsonSchema(TOKENS | {"minItems": 0})]
    """Token ids."""

    @field_validator("tokens")
    @classmethod
    def _ids(cls, value: Any) -> list[int]:
        return token_ids("tokens", value) if value != [] else []


class Tokenized(msgspec.Struct):
    """`max_model_len` is null until the engine is loaded."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(msgspec.Struct):
    """The text of the tokens."""

    prompt: str
