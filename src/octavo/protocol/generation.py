"""What both generation endpoints ask: sampling fields with OpenAI's and vLLM's names, and their translation.

Invariant: types are checked here, ranges in `SamplingParams`; each error names the field as the caller wrote it.

Parameters of OpenAI that this server does not honour are refused unless they hold a value under which there is nothing
to honour (`NEUTRAL_*` tables of the endpoints). Labels (`LABELS`) are accepted, checked for their type, and change
nothing: they name the caller for the caller's own purposes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationInfo, WithJsonSchema, field_validator

from octavo.core.errors import InvalidValue, UserError
from octavo.core.repetition import MAX_COUNT, MAX_PATTERN, RepetitionDetectionParams
from octavo.core.request import SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.protocol.structured import SCHEMA, ResponseFormat, StructuredOutputs
from octavo.protocol.wire import STRICT, TEXT, brief, unicode

# known, not honoured: the values (besides null) under which there is nothing to honour
NEUTRAL_GENERATION: dict[str, tuple[Any, ...]] = {
    "spaces_between_special_tokens": (True,),
    "flat_logprobs": (False,),
    "kv_transfer_params": (),
    "vllm_xargs": ({},),
    "extra_args": ({},),
}
PROCESSORS = {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "object"}}
NAME = re.compile(r"[!-~]{1,128}")  # of a request: visible ASCII, so that it can stand in a header and a line of a log


class StreamOptions(BaseModel):
    """include_usage: a last chunk with the usage. continuous_usage_stats (vLLM): usage so far in every chunk."""

    model_config = STRICT

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False

    @field_validator("include_obfuscation")
    @classmethod
    def _plain(cls, value: bool) -> bool:
        if value:
            raise InvalidValue("stream_options.include_obfuscation", True, "this server accepts only false")
        return value


class RepetitionDetection(BaseModel):
    """A pattern of tokens that comes so often in a row ends the answer."""

    model_config = STRICT

    max_pattern_size: int = Field(0, json_schema_extra={"minimum": 0, "maximum": MAX_PATTERN})
    """Tokens of the longest pattern that is looked for; 0: nothing is."""
    min_pattern_size: int = Field(0, json_schema_extra={"minimum": 0, "maximum": MAX_PATTERN})
    """Tokens of the shortest; 0: 1."""
    min_count: int = Field(0, json_schema_extra={"minimum": 0, "maximum": MAX_COUNT})
    """How often it comes, 2 or more."""


class GenerationRequest(BaseModel):
    """The fields that completions and chat completions share."""

    model_config = STRICT

    model: str | None = None
    """One of the names the server goes by; left out: the model that is served."""
    n: int = Field(1, json_schema_extra={"minimum": 1, "maximum": 128})
    """Choices of each prompt, each with a seed of its own."""
    temperature: float = Field(1.0, json_schema_extra={"minimum": 0, "maximum": 100})
    """0: always the likeliest token; above 1 the unlikely ones gain."""
    top_p: float = Field(1.0, json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})
    """Draw among the likeliest tokens whose chances together reach this."""
    presence_penalty: float = Field(0.0, json_schema_extra={"minimum": -2, "maximum": 2})
    """Subtracted from the logits of tokens that were generated."""
    frequency_penalty: float = Field(0.0, json_schema_extra={"minimum": -2, "maximum": 2})
    """The same, times how often they were generated."""
    logit_bias: dict[str, float] | None = None
    """Added to the logits of tokens, by their ids; from -100 to 100."""
    seed: int | None = None
    """Makes the draw repeatable, whatever else runs; -1: none."""
    stop: Annotated[Any, WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT}]})] = None
    """Texts that end the answer, which is given without them."""
    stream: bool = False
    """Give the answer piece by piece, as server-sent events."""
    stream_options: StreamOptions | None = None
    """What a stream holds beside the answer."""
    max_tokens: int | None = Field(None, json_schema_extra={"minimum": 0})
    """Tokens to generate at most; 0, of completions with echo: none."""

    response_format: ResponseFormat | None = None
    """What the answer is: text, any JSON object, or JSON of a schema."""

    # of llama.cpp
    grammar: str | None = None
    """GBNF, or Lark: the answer is a text of this grammar."""
    json_schema: Annotated[Any, WithJsonSchema(SCHEMA)] = None
    """The answer is JSON of this schema."""
    typical_p: float = Field(1.0, json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})
    """Above 0 up to 1: only the tokens whose surprise is nearest to the expected one, up to this share; 1: all."""
    top_n_sigma: float = Field(-1.0, json_schema_extra={"minimum": -1, "maximum": 1000})
    """From -1 to 1000: only tokens at most so many standard deviations of the logits below the best; 0 or less: all."""
    xtc_probability: float = Field(0.0, json_schema_extra={"minimum": 0, "maximum": 1})
    """0 to 1: how often, of the tokens above xtc_threshold, all but the least likely are left out."""
    xtc_threshold: float = Field(0.1, json_schema_extra={"minimum": 0, "maximum": 1})
    """0 to 1: see xtc_probability; above 0.5 it does nothing."""
    dry_multiplier: float = Field(0.0, json_schema_extra={"minimum": 0, "maximum": 100})
    """0 to 100: how much less likely what continues a repetition becomes; 0: no less."""
    dry_base: float = Field(1.75, json_schema_extra={"minimum": 1, "maximum": 100})
    """1 to 100: the penalty grows by this factor with each token of the repetition."""
    dry_allowed_length: int = Field(2, json_schema_extra={"minimum": 0})
    """Repetitions of fewer tokens are not penalized."""
    dry_penalty_last_n: int = Field(-1, json_schema_extra={"minimum": -1})
    """Only so many of the last tokens are looked at for repetitions; -1: all, 0: none."""
    dry_sequence_breakers: list[str] | None = None
    """Texts that no repetition reaches over, 1 to 64; by default newline, colon, quotation mark and asterisk."""
    mirostat: int = Field(0, json_schema_extra={"minimum": 0, "maximum": 2})
    """1 or 2: mirostat of that version in place of the samplers behind temperature; 0: off."""
    mirostat_tau: float = Field(5.0, json_schema_extra={"minimum": 0, "maximum": 100})
    """0 to 100: the surprise of a token, in bits, that mirostat aims at."""
    mirostat_eta: float = Field(0.1, json_schema_extra={"minimum": 0, "maximum": 1})
    """0 to 1: how fast mirostat comes nearer to it."""
    dynatemp_range: float = Field(0.0, json_schema_extra={"minimum": 0, "maximum": 100})
    """0 to 100: the temperature goes with the entropy, from so much below `temperature` to so much above it."""
    dynatemp_exponent: float = Field(1.0, json_schema_extra={"minimum": 0, "maximum": 100})
    """0 to 100: of the entropy, as a part of the largest possible one, before it is mapped to that range."""
    repeat_last_n: int = Field(-1, json_schema_extra={"minimum": -1})
    """Only so many of the last tokens are penalized for being repeated; -1: all, 0: none."""
    repeat_penalty: float | None = Field(None, gt=0, le=100)
    """Another name of repetition_penalty."""
    cache_prompt: bool = True
    """False: as skip_reading_prefix_cache."""
    samplers: list[str] | None = None
    """The order of samplers, penalties and dry first; those that are not named do not take part: docs/samplers.md."""

    # labels
    user: str | None = None
    """A name for the caller's own purposes; changes nothing."""
    metadata: dict[str, str] | None = None
    """For the caller's own purposes; changes nothing."""

    # of vLLM
    top_k: int = Field(0, json_schema_extra={"minimum": -1})
    """Draw among so many of the likeliest tokens; 0 or -1: all."""
    min_p: float = Field(0.0, json_schema_extra={"minimum": 0, "maximum": 1})
    """Draw among tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = Field(1.0, json_schema_extra={"exclusiveMinimum": 0, "maximum": 100})
    """Logits of tokens of prompt and answer are divided by this, or multiplied where negative."""
    stop_token_ids: list[int] | None = None
    """Tokens that end the answer."""
    ignore_eos: bool = False
    """Go on where the model would end."""
    min_tokens: int = Field(0, json_schema_extra={"minimum": 0})
    """The model ends the answer no sooner."""
    include_stop_str_in_output: bool = False
    """Give the stop text too."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    prompt_logprobs: int | None = Field(None, json_schema_extra={"minimum": 0, "maximum": 20})
    """Log-probabilities of the prompt's tokens, each with so many alternatives."""
    logprob_token_ids: list[int] | None = None
    """Tokens, at most 128, whose log-probabilities are given in place of the likeliest ones'; only with logprobs."""
    return_tokens_as_token_ids: bool = False
    """Beside log-probabilities tokens are called token_id: and their number."""
    skip_reading_prefix_cache: bool = False
    """Compute the whole prompt, whatever is known of its beginning."""
    repetition_detection: RepetitionDetection | None = None
    """End an answer that only repeats itself, with finish_reason "repetition"."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Lower goes first, where the server allows it."""
    cache_salt: str = Field("", max_length=256)
    """Prompts share what was computed of their beginnings only under the same salt."""
    return_token_ids: bool = False
    """Give the token ids of prompt and answer too."""
    structured_outputs: StructuredOutputs | None = None
    """What the answer must look like: exactly one form."""
    use_beam_search: bool = False
    """The choices are the `n` best beams, at most 10; not with stream, nor with fields that shape or report draws."""
    length_penalty: float = Field(1.0, ge=-100, le=100)
    """Of a beam search: a beam's log-probability is divided by its length, prompt included, to this power."""
    allowed_token_ids: list[int] | None = None
    """Nothing but these tokens is drawn."""
    bad_words: list[str] | None = None
    """Texts that are not generated, alone or behind a space."""
    truncate_prompt_tokens: int | None = None
    """Read only so many of the prompt's last tokens; -1: as many as leave room for max_tokens."""
    request_id: str | None = None
    """Stands in the answer's id; the header X-Request-Id goes before it."""

    # our own
    logits_processors: Annotated[Any, WithJsonSchema(PROCESSORS)] = None
    """Code that the server has installed changes the logits: names, each with its arguments. See docs/processors.md."""
    deadline_ms: int | None = Field(None, ge=1, le=86_400_000)
    """A choice that is not finished so long after the request came ends with finish_reason "length" and stop_reason
    "deadline"."""

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        if isinstance(value, str):
            return unicode("stop", value)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidValue("stop", brief(value), "a string or a list of strings")
        return [unicode(f"stop[{place}]", item) for place, item in enumerate(value[:100])]

    @field_validator("bad_words", "dry_sequence_breakers")
    @classmethod
    def _texts(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return [unicode(f"{info.field_name}[{place}]", item) for place, item in enumerate(value)]

    @field_validator("cache_salt")
    @classmethod
    def _salt(cls, value: str) -> str:
        return salt(value)

    @field_validator("request_id")
    @classmethod
    def _name(cls, value: str) -> str:
        return request_name("request_id", value)

    def check_stream(self) -> None:
        """Refuse what has no meaning without, or with, a stream."""
        if self.stream_options is not None and not self.stream:
            raise InvalidValue("stream_options", "given", "only together with stream=true")
        if self.stream and self.use_beam_search:
            raise InvalidValue("use_beam_search", True, "only without stream")
        if self.length_penalty != 1 and not self.use_beam_search:
            raise InvalidValue("length_penalty", self.length_penalty, "only with use_beam_search")
        if self.use_beam_search and self.deadline_ms is not None:
            raise InvalidValue("deadline_ms", self.deadline_ms, "only without use_beam_search")
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidValue("prompt_logprobs", self.prompt_logprobs, "only without stream")

    def structured(self) -> StructuredOutputsParams | None:
        """What the answer must look like, by whichever field. Raises InvalidValue where several say."""
        fields = ("response_format", "structured_outputs", "grammar", "json_schema")
        found = {field: getattr(self, field) for field in fields if getattr(self, field) is not None}
        if self.response_format is not None and self.response_format.params() is None:
            del found["response_format"]  # any text
        if len(found) > 1:
            raise InvalidValue(list(found)[1], "given", f"only without {next(iter(found))}")
        for field, value in found.items():
            if isinstance(value, ResponseFormat):
                return value.params()
            if isinstance(value, StructuredOutputs):
                return StructuredOutputsParams(**value.model_dump(by_alias=True))
            return StructuredOutputsParams(**{"grammar" if field == "grammar" else "json": value}, field=field)
        return None

    def params(self, *, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None) -> SamplingParams:
        """How to draw. Raises InvalidValue for anything out of range."""
        if self.deadline_ms is not None and prompt_logprobs is not None:
            raise InvalidValue("deadline_ms", self.deadline_ms, "only without log-probabilities of the prompt")
        given = {name: getattr(self, name) for name in AS_GIVEN}
        if self.repeat_penalty is not None:
            if self.repetition_penalty not in (1, self.repeat_penalty):
                raise InvalidValue("repeat_penalty", self.repeat_penalty, "the value of repetition_penalty")
            given["repetition_penalty"] = self.repeat_penalty
        named = self.logprob_token_ids or None
        if named is not None and logprobs is None:
            raise InvalidValue("logprob_token_ids", named[:8], "only together with logprobs")
        repeats = self.repetition_detection
        return SamplingParams(
            **given,
            logprob_token_ids=named,
            skip_reading_prefix_cache=self.skip_reading_prefix_cache or not self.cache_prompt,
            repetition_detection=None if repeats is None else RepetitionDetectionParams(**repeats.model_dump()),
            logit_bias=_biases(self.logit_bias),
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            structured_outputs=self.structured(),
        )


_OTHERWISE = {
    "structured_outputs",
    "logit_bias",
    "max_tokens",
    "logprobs",
    "prompt_logprobs",
    "logprob_token_ids",
    "skip_reading_prefix_cache",
    "repetition_detection",
}
AS_GIVEN = [
    name
    for name in SamplingParams.__struct_fields__
    if name in GenerationRequest.model_fields and name not in _OTHERWISE
]


def salt(value: str) -> str:
    """What keeps prefixes apart. Raises InvalidValue."""
    if not value:
        raise InvalidValue("cache_salt", value, "1 to 256 characters")
    return unicode("cache_salt", value)


def request_name(field: str, value: str) -> str:
    """The caller's name of a request. Raises InvalidValue."""
    if not NAME.fullmatch(value):
        raise InvalidValue(field, brief(value), "1 to 128 visible characters of ASCII, without spaces")
    return value


def _biases(given: dict[str, float] | None) -> dict[int, float] | None:
    """Token ids are strings in JSON."""
    if given is None:
        return None
    if len(given) > 1024:
        raise InvalidValue("logit_bias", f"{len(given)} entries", "at most 1024 entries")
    biases = {}
    for name, bias in given.items():
        if not (name.isascii() and name.isdecimal() and len(name) <= 10):
            raise UserError(f"logit_bias: {brief(name)!r} is not a token id", "logit_bias", "invalid_value")
        biases[int(name)] = bias
    return biases
