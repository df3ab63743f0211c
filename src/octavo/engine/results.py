"""What `LLM` returns, in vLLM's shapes. Plain data and how it is made of what an Assembler gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from octavo.core.plan import Output, TokenLogprob
from octavo.text.assemble import Assembler
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural log-probability of one token, its rank (1 is likeliest), and its text where there is a tokenizer."""

    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion. finish_reason: "stop", "length", "repetition" or "error"; stop_reason: the stop string or stop
    token, if any, or "repetition_detected".

    `logprobs` has one dict for each token: the token itself and the alternatives asked for, by token id.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All completions of one prompt. `prompt` is None where token ids were given.

    `prompt_logprobs` has one entry for each prompt token; the first token's is None. num_cached_tokens: prompt tokens
    found in the prefix cache (by the first completion).
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """What the model gave: float32 [numbers], or of each token [tokens, numbers]."""

    data: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of a text."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """A number for each label, in the order of `LLM.info.pooling.labels`."""

    probs: list[float]


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """How well two texts go together."""

    score: float


P = TypeVar("P", PoolingOutput, EmbeddingOutput, ClassificationOutput, ScoringOutput)


@dataclass(frozen=True, slots=True)
class PooledRequestOutput(Generic[P]):
    """What one text, or pair, was given."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: P
    num_cached_tokens: int = 0
    finished: bool = True


class Vector:
    """The one output of a request that pools, once it came."""

    stopped = False

    def __init__(self) -> None:
        self.output = Output(id="")

    @property
    def finish(self) -> str | None:
        """As in Output."""
        return self.output.finish

    def push(self, output: Output) -> None:
        """Take it."""
        self.output = output


def completion(index: int, total: Assembler, tokenizer: Tokenizer | None, logprobs: int | None) -> CompletionOutput:
    """One finished completion."""
    return CompletionOutput(
        index=index,
        text=total.text,
        token_ids=total.tokens,
        cumulative_logprob=None if logprobs is None else total.cumulative_logprob,
        logprobs=None if logprobs is None else [alternatives(entry, tokenizer) for entry in total.logprobs],
        finish_reason=total.finish,
        stop_reason=total.stop_reason,
        error=total.error,
    )


def alternatives(entry: TokenLogprob, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """One token's log-probability and its alternatives, by token id."""

    def text(token: int) -> str | None:
        return None if tokenizer is None else tokenizer.token_text(token)

    found = {entry.token: Logprob(entry.logprob, entry.rank, text(entry.token))}
    for rank, (token, logprob) in enumerate(entry.top, 1):
        if token != entry.token:
            found[token] = Logprob(logprob, rank, text(token))
    return found
