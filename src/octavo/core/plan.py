"""What scheduler, worker and client say to each other: plain data, no tensors, no text.

Scheduler --Plan--> Worker --StepResult--> Scheduler --Output--> client

What is made for each sequence in each step is never part of a cycle, so the garbage collector need not look (gc=False).
"""

from __future__ import annotations

import msgspec

from octavo.core.request import Request


class Start(msgspec.Struct, frozen=True):
    """A sequence takes a slot: for the first time, or again after a preemption, with all its tokens so far."""

    slot: int
    request: Request
    tokens: tuple[int, ...]  # prompt and what was generated before a preemption
    mu: float | None = None  # of mirostat, where it was drawn from before


class Run(msgspec.Struct, frozen=True, gc=False):
    """`count` tokens of one slot, from position `first` on, computed in this step.

    `blocks` are page ids newly appended to the slot's block tables, row by row, one for each cache group (on a start:
    the cached ones too, -1 where none is needed). `sample`: the run ends at the sequence's last token, so its last row
    is drawn from.
    """

    slot: int
    first: int
    count: int
    blocks: tuple[int, ...]
    sample: bool


class Plan(msgspec.Struct, frozen=True):
    """One step. The worker applies `frees`, then `starts`, then `runs`.

    `copies`: pages (from, to) whose content is copied before anything is written; all are read before any is written.
    """

    step: int
    frees: tuple[int, ...]
    starts: tuple[Start, ...]
    runs: tuple[Run, ...]
    copies: tuple[tuple[int, int], ...] = ()


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of one token under the model's raw distribution, its rank (1 is likeliest), and alternatives."""

    token: int
    logprob: float
    rank: int
    top: list[tuple[int, float]] = []


class RunResult(msgspec.Struct, frozen=True, gc=False):
    """What one run gave, in the plan's order.

    `tokens`: the drawn token and those that follow it by force, empty where nothing was sampled. `stopped`: behind the
    last of them the request's grammar is at its end. `prompt_logprobs`: for prompt positions first+1 ..
    first+count, where the request asked. `vector`: of a request that pools and whose last token was computed, what it
    is given: float32 numbers, as bytes. `failed`: why this sequence cannot go on (non-finite logits), or None. `mu`: of
    mirostat, behind these tokens.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    vector: bytes = b""
    failed: str | None = None
    stopped: bool = False
    mu: float | None = None


class StepResult(msgspec.Struct, frozen=True):
    """One `RunResult` for each run of the plan."""

    runs: list[RunResult] = []


class Output(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """New tokens of one request. Exactly one output of each accepted request has `finish` set, and it is the last.

    finish: "stop" (end of text or a stop token), "length", "repetition", "abort", or "error" (`error` says why).
    `stop_reason` is the stop token where it was not the model's own end of text, "deadline" where the front ended it,
    "repetition_detected", or "grammar" where an error is the request's grammar's. `cached` counts prompt tokens found
    in the prefix cache. `prompt_logprobs` come with the first output; entry i belongs to prompt token i + 1. `whole`:
    it stopped behind its last token, at the end of a grammar, and not at it. `vector` comes with the only output of a
    request that pools: its float32 numbers, as bytes; those of tokens row by row. `mu`: of mirostat, behind these
    tokens.
    """

    id: str
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: list[TokenLogprob] = []
    finish: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    cached: int = 0
    vector: bytes = b""
    whole: bool = False
    mu: float | None = None


class StepStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State and work of the engine after one step; counters are totals since the start."""

    steps: int = 0
    step_seconds: float = 0.0  # the last step, scheduling included
    predicted_seconds: float = 0.0  # what it was expected to take
    step_tokens: int = 0  # what it computed
    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_free: int = 0  # free and not holding cached prefixes
    pages_cached: int = 0  # reusable prefixes nobody holds
    pages_held: int = 0
    slack_tokens: int = 0  # token places in held pages that hold no token: the waste
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # prompt tokens found
    preemptions: int = 0
    finished: dict[str, int] = {}  # by finish reason
    processor_seconds: dict[str, float] = {}  # in logits processors, by name
    processor_calls: dict[str, int] = {}
    resident_bytes: int = 0  # memory of the engine's process, looked at about once a second
