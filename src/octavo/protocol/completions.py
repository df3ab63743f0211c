"""/v1/completions: what may be asked, and the shapes of the answer, whole and streamed.

Invariant: `prompt` of a checked request is a list with one entry for each prompt, each a text or a list of token ids,
none of them empty, whichever of the four forms it came in.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field, WithJsonSchema, field_validator

from octavo.core.errors import InvalidValue
from octavo.core.request import MAX_LOGPROBS, MAX_N, SamplingParams
from octavo.protocol.generation import NEUTRAL_GENERATION, GenerationRequest
from octavo.protocol.usage import Usage
from octavo.protocol.wire import TEXT, TOKENS, brief, unicode

DEFAULT_MAX_TOKENS = 16  # as in the OpenAI API

# known, not honoured: the values (besides null) under which there is nothing to honour
NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = NEUTRAL_GENERATION

_SEVERAL = {"type": "array", "minItems": 1}
PROMPT = {"anyOf": [TEXT, TOKENS, _SEVERAL | {"items": TEXT}, _SEVERAL | {"items": TOKENS}]}


class CompletionRequest(GenerationRequest):
    """A text to continue. `max_tokens` 0 needs `echo`: it scores the prompt."""

    prompt: Annotated[Any, WithJsonSchema(PROMPT)]
    """A text, a list of token ids, or a list of either."""
    suffix: str | None = Field(None, max_length=1_000_000)
    """What stands behind the text that is asked for, of models that are trained to fill in; empty: nothing."""
    echo: bool = False
    """Give the prompt before what continues it."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Log-probabilities of each token and of so many alternatives."""
    best_of: int | None = Field(None, ge=1, le=MAX_N)
    """Generate so many choices, and give the n of the largest log-probability per token. Not with stream, nor with
    use_beam_search."""
    add_special_tokens: bool = True
    """Add the marks that the model wants before a text."""

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: Any) -> Any:
        return prompts("prompt", value)

    def sampling(self) -> SamplingParams:
        """How to draw; `max_tokens` None where the caller set none. Raises InvalidValue."""
        self.check_stream()
        if self.suffix:
            unicode("suffix", self.suffix)
            for field, given in (("echo", self.echo), ("truncate_prompt_tokens", self.truncate_prompt_tokens)):
                if given:
                    raise InvalidValue(field, given, "only without suffix")
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidValue("best_of", self.best_of, f"at least n, which is {self.n}")
        for field in ("stream", "use_beam_search"):
            if self.best_of not in (None, self.n) and getattr(self, field):
                raise InvalidValue("best_of", self.best_of, f"with {field} only the value of n, which is {self.n}")
        tokens = self.max_tokens
        if tokens == 0 and not self.echo:
            raise InvalidValue("max_tokens", 0, "an integer of 1 or more, or 0 together with echo=true")
        if tokens == 0 and self.min_tokens > 0:
            raise InvalidValue("min_tokens", self.min_tokens, "at most max_tokens, which is 0")
        prompt_logprobs = self.prompt_logprobs
        if self.echo and self.logprobs is not None:
            prompt_logprobs = max(self.logprobs, prompt_logprobs or 0)
        return self.params(max_tokens=tokens or None, logprobs=self.logprobs, prompt_logprobs=prompt_logprobs)


def prompts(field: str, value: Any) -> list[str | list[int]]:
    """The prompts in whichever of the four forms, checked for type and emptiness."""
    if isinstance(value, str):
        return [text_of(field, value)]
    if not isinstance(value, list) or not value:
        raise InvalidValue(field, brief(value), "a text, a list of token ids, or a list of either, not empty")
    first = value[0]
    if isinstance(first, str):
        return [text_of(f"{field}[{place}]", item) for place, item in enumerate(value)]
    if isinstance(first, list):
        return [token_ids(f"{field}[{place}]", item) for place, item in enumerate(value)]
    return [token_ids(field, value)]


def text_of(field: str, value: Any) -> str:
    """A text that is not empty. Raises InvalidValue."""
    if not isinstance(value, str) or not value:
        raise InvalidValue(field, brief(value), "a text of at least one character")
    return unicode(field, value)


def token_ids(field: str, value: Any) -> list[int]:
    """A list of one or more integers of 0 or more; what they mean depends on the model."""
    if not isinstance(value, list) or not value:
        raise InvalidValue(field, brief(value), "a list of at least one token id")
    if set(map(type, value)) == {int} and min(value) >= 0:
        return value
    for place, token in enumerate(value):
        if type(token) is not int or token < 0:
            raise InvalidValue(f"{field}[{place}]", brief(token), "a token id, which is an integer of 0 or more")
    return value


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists over the tokens of `text`; the first token of an echoed prompt has no log-probability.

    `text_offset` counts characters from the start of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    """One choice, or what a chunk adds to it. `stop_reason` is the stop string or token that ended it (vLLM)."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct):
    """The answer, and each chunk of a streamed one."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "text_completion"
