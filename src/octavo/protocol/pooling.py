"""Embeddings, classes, scores and ranks: what may be asked, and the shapes of answers.

Invariant: `input`, and the texts of a pair, of a checked request are lists with one entry for each text, a str or a
list of token ids, whichever form they came in. Shapes: OpenAI's of embeddings, vLLM's of the others, Cohere's and
Jina's of ranks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, Field, WithJsonSchema, field_validator

from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import TASKS, PoolingParams
from octavo.protocol.chat import MAX_MESSAGES, Message, check_instead, template_variables
from octavo.protocol.completions import PROMPT, prompts, text_of
from octavo.protocol.generation import request_name, salt
from octavo.protocol.usage import Usage
from octavo.protocol.wire import STRICT, TEXT, brief

MAX_TEXTS = 2048  # of one call, as in the OpenAI API

_TEXTS = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]}
_DOCUMENT = {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}
_DOCUMENTS = {"type": "array", "items": {"anyOf": [TEXT, _DOCUMENT]}, "minItems": 1}


class PooledRequest(BaseModel):
    """The fields that all of them share."""

    model_config = STRICT

    model: str | None = None
    """The model that is served, or left out."""
    user: str | None = None
    """A name for the caller's own purposes."""
    truncate_prompt_tokens: int | None = None
    """Read only so many of a text's first tokens, marks included; -1: as many as the model takes."""
    use_activation: bool | None = None
    """Whether scores pass the model's activation, or embeddings get length 1; left out: as the model's maker meant."""
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    """Lower goes first, where the server allows it."""
    cache_salt: str = Field("", max_length=256)
    """Texts share what was computed of their beginnings only under the same salt."""
    request_id: str | None = None
    """Stands in the answer's id; the header X-Request-Id goes before it."""

    @field_validator("request_id")
    @classmethod
    def _name(cls, value: str) -> str:
        return request_name("request_id", value)

    @field_validator("cache_salt")
    @classmethod
    def _salt(cls, value: str) -> str:
        return salt(value)

    def params(self, task: str | None) -> PoolingParams:
        """What is to be given. Raises InvalidValue for anything out of range."""
        names = ("dimensions", "normalize", "use_activation", "truncate_prompt_tokens")
        return PoolingParams(task=task, **{name: getattr(self, name, None) for name in names})


class InputRequest(PooledRequest):
    """Texts, each by itself."""

    input: Annotated[Any, WithJsonSchema(PROMPT)]  # list[str | list[int]] once checked
    """A text, a list of token ids, or a list of either."""
    add_special_tokens: bool = True
    """Add the marks that the model wants around texts."""

    @field_validator("input")
    @classmethod
    def _input(cls, value: Any) -> Any:
        return _few("input", prompts("input", value))


class VectorRequest(InputRequest):
    """Texts, or a conversation, whose vectors are asked: either `input` or `messages`."""

    input: Annotated[Any, WithJsonSchema(PROMPT)] = None  # list[str | list[int]] once checked
    """A text, a list of token ids, or a list of either."""
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    """Or a conversation, which the chat template writes: one text."""
    add_special_tokens: bool | None = None  # type: ignore[assignment]
    """Add the marks that the model wants around texts; left out: around `input`, not around a conversation."""
    add_generation_prompt: bool = False
    """Let the template begin an answer."""
    continue_final_message: bool = False
    """The last message stays open. Only with add_generation_prompt false."""
    chat_template: str | None = Field(None, min_length=1)
    """Jinja, instead of the model's own. Only where the server was told to trust such."""
    chat_template_kwargs: dict[str, Any] = {}
    """Variables for the chat template."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers as JSON, or the bytes of float32 numbers, little-endian, in base64."""
    dimensions: int | None = None
    """Only so many of an embedding's first numbers."""
    normalize: bool | None = None
    """Whether embeddings get length 1; left out: as the model's maker meant."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return template_variables(value)

    def check(self) -> None:
        """Exactly one of the two; what belongs to messages, with them. Raises UserError."""
        if self.input is None and self.messages is None:
            raise UserError("input is required, or messages", "input", "missing_required_parameter")
        of_messages = ("add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs")
        check_instead(self, "input", *of_messages)


class EmbeddingRequest(VectorRequest):
    """Texts whose embeddings are asked."""

    enable_chunked_processing: bool = False
    """Of a text longer than the model takes give the mean of its pieces, each counted as often as it has tokens."""

    def check(self) -> None:
        """Refuse what does not go together. Raises UserError."""
        super().check()
        if self.enable_chunked_processing and self.truncate_prompt_tokens is not None:
            told = "only without enable_chunked_processing"
            raise InvalidValue("truncate_prompt_tokens", self.truncate_prompt_tokens, told)


class PoolingRequest(VectorRequest):
    """Texts of which something is asked, by `task`."""

    task: str | None = Field(None, json_schema_extra={"enum": [None, *TASKS]})
    """What is given: embed, classify, or of each token token_embed or token_classify; left out: what the model does."""


class ClassifyRequest(InputRequest):
    """Texts whose labels are asked."""


class ScoreRequest(PooledRequest):
    """Texts that are compared pair by pair; one alone in the first field goes with each of the second's."""

    text_1: Annotated[Any, WithJsonSchema(_TEXTS)] = None
    """A text or a list of texts."""
    text_2: Annotated[Any, WithJsonSchema(_TEXTS)] = None
    """A text or a list of texts."""
    queries: Annotated[Any, WithJsonSchema(_TEXTS)] = None
    """The same as text_1."""
    documents: Annotated[Any, WithJsonSchema(_TEXTS)] = None
    """The same as text_2."""

    @field_validator("text_1", "text_2", "queries", "documents")
    @classmethod
    def _texts(cls, value: Any, info: Any) -> list[str]:
        name = info.field_name
        if isinstance(value, str):
            return [text_of(name, value)]
        if not isinstance(value, list) or not value:
            raise InvalidValue(name, brief(value), "a text, or a list of texts")
        return _few(name, [text_of(f"{name}[{i}]", text) for i, text in enumerate(value)])

    def pairs(self) -> tuple[str, list[str], list[str]]:
        """Name of the second field, first and second texts. Raises UserError where they make no pairs."""
        second = "documents" if self.text_2 is None else "text_2"
        for one, other in (("text_1", "queries"), ("text_2", "documents")):
            if getattr(self, one) is None and getattr(self, other) is None:
                raise UserError(f"{one} is required", one, "missing_required_parameter")
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise InvalidValue(other, brief(getattr(self, other)), f"only without {one}, which means the same")
        first_texts = self.queries if self.text_1 is None else self.text_1
        texts = self.documents if self.text_2 is None else self.text_2
        if len(first_texts) not in (1, len(texts)):
            first = "queries" if self.text_1 is None else "text_1"
            accepted = f"one, or as many as {second}, which are {len(texts)}"
            raise InvalidValue(first, f"{len(first_texts)} texts", accepted)
        return second, first_texts, texts


class RerankRequest(PooledRequest):
    """Documents to bring in the order in which they answer a query."""

    query: str
    """What they are to answer."""
    documents: Annotated[Any, WithJsonSchema(_DOCUMENTS)]
    """Texts, or objects with `text`."""
    top_n: int = Field(0, ge=0)
    """Give only so many, the best first; 0: all."""
    return_documents: bool = True
    """Give the texts too."""

    @field_validator("query")
    @classmethod
    def _query(cls, value: str) -> str:
        return text_of("query", value)

    @field_validator("documents")
    @classmethod
    def _documents(cls, value: Any) -> list[str]:
        if not isinstance(value, list) or not value:
            raise InvalidValue("documents", brief(value), "a list of texts, or of objects with text")
        return _few("documents", [_document(f"documents[{i}]", item) for i, item in enumerate(value)])


def _document(field: str, item: Any) -> str:
    """The text of a document. Raises InvalidValue."""
    if isinstance(item, dict):
        if item.keys() != {"text"}:
            raise InvalidValue(field, brief(item), "a text, or an object with text and nothing else")
        return text_of(f"{field}.text", item["text"])
    return text_of(field, item)


def _few(field: str, texts: list[Any]) -> list[Any]:
    """A list of texts that is not too long."""
    if len(texts) > MAX_TEXTS:
        raise InvalidValue(field, f"{len(texts)} texts", f"at most {MAX_TEXTS}")
    return texts


class Embedding(msgspec.Struct):
    """The vector of the text at `index`: numbers, or base64 of float32 ones."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class Vectors(msgspec.Struct):
    """What was given of the text at `index`: numbers, of tasks of tokens a list for each, or base64 of all of them."""

    index: int
    data: list[float | list[float]] | str
    object: str = "pooling"


class Classified(msgspec.Struct):
    """The best label of the text at `index`, and the numbers of all labels."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Score(msgspec.Struct):
    """How well the pair at `index` goes together."""

    index: int
    score: float
    object: str = "score"


class _Answer(msgspec.Struct, kw_only=True):
    id: str
    created: int
    model: str
    usage: Usage
    object: str = "list"


class Embeddings(_Answer, kw_only=True):
    """Embeddings, in the order of the texts."""

    data: list[Embedding]


class PooledVectors(_Answer, kw_only=True):
    """What the texts were given, in their order."""

    data: list[Vectors]


class Classifications(_Answer, kw_only=True):
    """Labels, in the order of the texts."""

    data: list[Classified]


class Scores(_Answer, kw_only=True):
    """Scores, in the order of the pairs."""

    data: list[Score]


class Document(msgspec.Struct):
    """A document's text."""

    text: str


class Ranked(msgspec.Struct):
    """The document at `index` of those that were sent, and how well it answers."""

    index: int
    relevance_score: float
    document: Document | None = None


class Ranking(msgspec.Struct):
    """Documents, the best first; of equal ones the earlier."""

    id: str
    model: str
    results: list[Ranked]
    usage: Usage
