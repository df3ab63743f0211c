"""What `LLM` returns, in vLLM's shapes. Plain data and how it is made of what an Assembler gathered."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.plan import TokenLogprob
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
    """One completion. finish_reason: "stop", "length" or "error"; stop_reason: the stop string or stop token, if any.

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
