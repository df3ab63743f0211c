"""/v1/chat/completions: what may be asked, and the shapes of the answer, whole and streamed.

Invariant: `conversation()` gives plain messages whose content is a text or a list of texts, as a chat template takes
them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, Field, ValidationInfo, WithJsonSchema, field_validator

from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import MAX_LOGPROBS, SamplingParams
from octavo.protocol.calls import (
    CHOICE,
    MAX_CALLS,
    MAX_TOOLS,
    CallDelta,
    Called,
    PastCall,
    Tool,
    check_tools,
    choice_of,
    past_calls,
)
from octavo.protocol.generation import NEUTRAL_GENERATION, GenerationRequest
from octavo.protocol.usage import Usage
from octavo.protocol.wire import STRICT, brief, unicode

MAX_MESSAGES = 4096

# known, not honoured: the values (besides null) under which there is nothing to honour
NEUTRAL_CHAT: dict[str, tuple[Any, ...]] = NEUTRAL_GENERATION | {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "web_search_options": (),
    "prompt_cache_retention": ("in_memory", "in-memory"),
}
NEUTRAL_MESSAGE = ("refusal", "annotations", "audio", "function_call")  # null, empty or refused
EMPTY: dict[str, Any] = {"enum": [None, [], ""]}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
CONTENT: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}


class Message(BaseModel):
    """One message. `content` is a text or a list of {"type": "text", "text": ...} parts; an assistant's may be null."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks; a developer speaks as the system."""
    content: Annotated[Any, WithJsonSchema({"anyOf": [*CONTENT["anyOf"], {"type": "null"}]})] = None
    """What is said."""
    name: str | None = None
    """Of the speaker, for templates that show it."""
    tool_call_id: str | None = None
    """Of a message of role tool: the call that it answers."""
    tool_calls: list[PastCall] | None = Field(None, max_length=MAX_CALLS)
    """Of an assistant's message: what it called."""
    reasoning_content: str | None = None
    """Of an assistant's message: what it thought, for templates that show it."""
    reasoning: str | None = None
    """The same, by its newer name."""
    # what an assistant message of an earlier answer carries; only empty is honoured
    refusal: Annotated[Any, WithJsonSchema(EMPTY)] = None
    """Of an earlier answer; only empty is accepted."""
    annotations: Annotated[Any, WithJsonSchema(EMPTY)] = None
    """Of an earlier answer; only empty is accepted."""
    audio: Annotated[Any, WithJsonSchema(EMPTY)] = None
    """Of an earlier answer; only empty is accepted."""
    function_call: Annotated[Any, WithJsonSchema(EMPTY)] = None
    """Of an earlier answer; only empty is accepted."""

    @field_validator("content")
    @classmethod
    def _parts(cls, value: Any, info: ValidationInfo) -> Any:
        """Where what is unknown is ignored, leave it out of parts of text too."""
        ignored: list[str] | None = info.context
        if ignored is None or not isinstance(value, list):
            return value
        for place, part in enumerate(value):
            if isinstance(part, dict) and part.get("type") == "text":
                for name in part.keys() - {"type", "text"}:
                    ignored.append(f"content[{place}].{name}")
                    del part[name]
        return value


class ChatRequest(GenerationRequest):
    """A conversation to continue. `max_completion_tokens` is the newer name of `max_tokens`."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    """The conversation so far, oldest first."""
    logprobs: bool = False
    """Give the log-probability of each token."""
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """And those of so many alternatives."""
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    """The newer name of max_tokens."""

    tools: list[Tool] = Field([], max_length=MAX_TOOLS)
    """What the model may call."""
    tool_choice: Annotated[Any, WithJsonSchema(CHOICE)] = None
    """auto: the model decides; none: it calls nothing; required: it calls something; or the function it calls."""
    parallel_tool_calls: bool = True
    """Whether one answer may hold several calls."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """How much to think, for chat templates that read it; none turns thinking off where the template can."""

    # labels
    safety_identifier: str | None = None
    """A name for the caller's own purposes; changes nothing."""
    prompt_cache_key: str | None = None
    """A name for the caller's own purposes; changes nothing."""

    # of vLLM
    add_generation_prompt: bool = True
    """Let the template begin the answer."""
    continue_final_message: bool = False
    """Go on with the last message as if it were not at its end. Only with add_generation_prompt false."""
    chat_template: str | None = Field(None, min_length=1)
    """Jinja, instead of the model's own. Only where the server was told to trust such."""
    add_special_tokens: bool = False
    """Add the marks of a plain text around what the template wrote."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables for the chat template, such as enable_thinking."""
    include_reasoning: bool = True
    """Whether what the model thinks is given beside its answer, or dropped."""
    thinking_token_budget: int | None = Field(None, ge=0, lt=2**31)
    """The most tokens of reasoning; then its end is written for the model. Not with log-probabilities."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return template_variables(value)

    @field_validator("tool_choice")
    @classmethod
    def _choice(cls, value: Any) -> str:
        return choice_of(value)

    @property
    def choice(self) -> str:
        """auto, none, required, or "function " and the name of the one to call."""
        return self.tool_choice or ("auto" if self.tools else "none")

    def sampling(self) -> SamplingParams:
        """How to draw; `max_tokens` None where the caller set none. Raises InvalidValue."""
        self.check_stream()
        check_final(self)
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidValue("top_logprobs", self.top_logprobs, "only together with logprobs=true")
        check_tools(self.tools, self.choice)
        if self.thinking_token_budget is not None and (self.logprobs or self.prompt_logprobs is not None):
            wanted = "only without log-probabilities, which the end that is written has not"
            raise InvalidValue("thinking_token_budget", self.thinking_token_budget, wanted)
        if self.choice not in ("auto", "none") and (form := self.structured()) is not None:
            raise InvalidValue(form.field, "given", 'only where tool_choice is "auto" or "none"')
        tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if self.max_tokens not in (None, tokens):
            raise InvalidValue("max_tokens", self.max_tokens, f"the value of max_completion_tokens, {tokens}, or none")
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.params(max_tokens=tokens, logprobs=logprobs, prompt_logprobs=self.prompt_logprobs)


RESERVED = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "tokenize",
            "chat_template", "conversation", "self"}  # fmt: skip


def check_final(asked: Any) -> None:
    """Of a body with messages: its last one stays open, or an answer begins behind it. Raises InvalidValue."""
    if asked.continue_final_message and asked.add_generation_prompt:
        raise InvalidValue("continue_final_message", True, "only together with add_generation_prompt=false")


def check_instead(asked: Any, other: str, *fields: str) -> None:
    """Of a body with messages or the field `other`: not both, and `fields` only with messages. Raises InvalidValue."""
    if getattr(asked, other) is not None:
        if asked.messages is not None:
            raise InvalidValue("messages", "given", f"either {other} or messages, not both")
        for field in fields:
            if getattr(asked, field):
                raise InvalidValue(field, "given", "only with messages")
    check_final(asked)


def template_variables(value: dict[str, Any]) -> dict[str, Any]:
    """Variables for a chat template, without those that have another way in. Raises InvalidValue."""
    for name in value:
        if name in RESERVED or not name.isidentifier():
            raise InvalidValue(f"chat_template_kwargs.{brief(name)}", brief(name), "a name of the template's own")
    return value


def conversation(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as a template takes them. Raises InvalidValue, UserError for anything that is not text."""
    return [_plain(f"messages[{place}]", message) for place, message in enumerate(messages)]


def _plain(field: str, message: Message) -> dict[str, Any]:
    for name in NEUTRAL_MESSAGE:
        if getattr(message, name) not in (None, [], ""):
            raise InvalidValue(f"{field}.{name}", brief(getattr(message, name)), "this server accepts only null")
    plain: dict[str, Any] = {"role": message.role}
    if message.content is None and _wordless(message):
        plain["content"] = ""
    else:
        plain["content"] = _content(f"{field}.content", message.content)
    if message.tool_calls or message.reasoning_content is not None or message.reasoning is not None:
        if message.role != "assistant":
            name = "tool_calls" if message.tool_calls else "reasoning_content"
            raise InvalidValue(f"{field}.{name}", "given", "only in a message of role assistant")
        plain |= _work(field, message)
    if message.name is not None:
        plain["name"] = unicode(f"{field}.name", message.name)
    if message.tool_call_id is not None:
        if message.role != "tool":
            raise InvalidValue(f"{field}.tool_call_id", message.tool_call_id, "only in a message of role tool")
        plain["tool_call_id"] = unicode(f"{field}.tool_call_id", message.tool_call_id)
    return plain


def _wordless(message: Message) -> bool:
    """Whether it needs no content: an answer of nothing but calls or reasoning, or what is left of such a one."""
    made = message.tool_calls or message.reasoning_content or message.reasoning
    return message.role == "assistant" and bool(made or "content" in message.model_fields_set)


def _work(field: str, message: Message) -> dict[str, Any]:
    """What an assistant did besides answering, under the names that templates use."""
    work: dict[str, Any] = {}
    thought = message.reasoning if message.reasoning_content is None else message.reasoning_content
    if thought is not None:
        unicode(f"{field}.reasoning_content", thought)
        work = dict.fromkeys(("reasoning_content", "reasoning"), thought)
        if not (message.tool_calls and message.content):  # gpt-oss' template takes one or the other
            work["thinking"] = thought
    if message.tool_calls:
        work["tool_calls"] = past_calls(f"{field}.tool_calls", message.tool_calls)
    return work


def _content(field: str, content: Any) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return unicode(field, content)
    if not isinstance(content, list) or not content:
        raise InvalidValue(field, brief(content), "a text, or a list of text parts")
    parts = []
    for place, part in enumerate(content):
        where = f"{field}[{place}]"
        if not isinstance(part, dict):
            raise InvalidValue(where, brief(part), 'an object such as {"type": "text", "text": "..."}')
        if part.get("type") != "text":
            raise InvalidValue(f"{where}.type", brief(part.get("type")), 'this model reads only parts of type "text"')
        if not isinstance(part.get("text"), str):
            raise InvalidValue(f"{where}.text", brief(part.get("text")), "a text")
        for name in part:
            if name not in ("type", "text"):
                raise UserError(f"{where}.{brief(name)} is not a parameter here", where, "unknown_parameter")
        parts.append({"type": "text", "text": unicode(f"{where}.text", part["text"])})
    return parts


class TopLogprob(msgspec.Struct):
    """One alternative. `bytes` are the token's UTF-8 bytes; a token may hold a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct):
    """One token of the answer with its alternatives, the likeliest first."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Log-probabilities of the content's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class Answer(msgspec.Struct):
    """The assistant's message. `content` is null where there is nothing but calls or reasoning.

    `reasoning` and `reasoning_content` are two names of the same: clients read one or the other.
    """

    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[Called] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    """One choice. `stop_reason` is the stop string or token that ended it (vLLM)."""

    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletion(msgspec.Struct):
    """The whole answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET


class AnswerDelta(msgspec.Struct):
    """What a chunk adds to the assistant's message."""

    role: str | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[CallDelta] | msgspec.UnsetType = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct):
    """What a chunk adds to one choice."""

    index: int
    delta: AnswerDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | msgspec.UnsetType | None = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(msgspec.Struct):
    """One event of a streamed answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
