"""An engine without a model, for tests of the front: what it answers, when, and how it fails is set from outside.

Invariant, as of the real one: every accepted request ends with exactly one final output, or is given up by whoever
leaves `generate`. The switches may be thrown from any thread.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable

import msgspec

from octavo.core.errors import QueueFull, Unavailable
from octavo.core.plan import Output, StepStats, TokenLogprob
from octavo.core.request import Request
from octavo.core.status import EngineInfo, PoolingInfo, Status, check_kind

VOCAB = 320
MAX_LEN = 512
LOOK_SECONDS = 0.001


def scripted(request: Request) -> list[int]:
    """Tokens that depend on the prompt, and on the seed unless greedy: any bytes, so often not valid UTF-8."""
    seed = 0 if request.sampling.greedy else request.seed % 1000
    start = sum(place * token for place, token in enumerate(request.prompt, 1)) + seed * 7
    return [3 + (start + 31 * k * k) % 271 for k in range(MAX_LEN)]


class ScriptedEngine:
    """`slots` requests run, `max_queued` wait. `answer` gives a request's tokens, None for a failure there.

    Switches: `held` stops everybody who runs; `load` lets a new engine become ready; `crash` ends all in flight.
    Books: `live` (stage by id: "queued", "running"), `given_up` and `ended` (ids), `requests` (all, as they came).
    """

    def __init__(
        self,
        answer: Callable[[Request], list[int | None]] = scripted,
        *,
        slots: int = 4,
        max_queued: int = 8,
        seconds_per_token: float = 0.0,
        state: str = "ready",
        pooling: PoolingInfo | None = None,
    ) -> None:
        self.pooling = pooling
        self.logits_processors: list[str] = []
        self.processor_seconds: dict[str, float] = {}
        self.answer = answer
        self.slots = slots
        self.max_queued = max_queued
        self.seconds_per_token = seconds_per_token
        self.state = state
        self.progress = 0.0
        self.detail = ""
        self.heartbeat_age = 0.0
        self.restarts = 0
        self.held = False
        self.crashes = 0
        self.generated = 0
        self.started = self.stopped = False
        self.live: dict[str, str] = {}
        self.given_up: list[str] = []
        self.ended: list[str] = []
        self.requests: list[Request] = []

    async def start(self) -> None:
        """Begin."""
        self.started = True

    async def stop(self, grace_seconds: float) -> None:
        """Abort what is left after the grace."""
        self.state = "draining"
        for _ in range(int(grace_seconds / LOOK_SECONDS)):
            if self.live:
                await asyncio.sleep(LOOK_SECONDS)
        self.state, self.stopped = "dead", True

    async def abort(self, request_id: str) -> None:
        """Not used by the front: it leaves the generator."""
        raise AssertionError(request_id)

    def crash(self) -> None:
        """Everybody in flight gets an error; the engine restarts."""
        self.crashes += 1
        self.restarts += 1
        self.state, self.detail = "restarting", "the engine died: signal 9"

    def status(self) -> Status:
        """One look."""
        running = sum(stage == "running" for stage in self.live.values())
        info = EngineInfo(model="scripted", max_len=MAX_LEN, vocab=VOCAB, eos_ids=[2], pages=64, memory={"weights": 7})
        info = msgspec.structs.replace(info, pooling=self.pooling, logits_processors=self.logits_processors)
        return Status(
            state=self.state,
            progress=self.progress,
            detail=self.detail,
            info=None if self.state in ("loading", "restarting") else info,
            heartbeat_age=self.heartbeat_age,
            restarts=self.restarts,
            stats=StepStats(
                running=running,
                processor_seconds=self.processor_seconds,
                waiting=len(self.live) - running,
                pages_total=64,
                pages_free=64 - running,
                pages_held=running,
                slack_tokens=running,
                generated_tokens=self.generated,
                prefix_queries=8,
                prefix_hits=2,
                finished={"length": len(self.ended)},
                resident_bytes=11,
                predicted_seconds=0.25,
                step_tokens=40,
            ),
        )

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """The scripted tokens, one by one."""
        if self.state != "ready":
            raise Unavailable(f"the engine is {self.state}")
        check_kind(request, self.pooling)
        if len(self.live) >= self.slots + self.max_queued:
            raise QueueFull(f"{len(self.live)} requests wait already")
        self.requests.append(request)
        self.live[request.id] = "queued"
        crashes, ended = self.crashes, False
        try:
            async for output in self._outputs(request, crashes):
                ended = output.finish is not None
                if ended:
                    del self.live[request.id]
                    self.ended.append(request.id)
                yield output
        finally:
            if not ended:
                del self.live[request.id]
                self.given_up.append(request.id)

    async def _outputs(self, request: Request, crashes: int) -> AsyncGenerator[Output, None]:
        while list(self.live).index(request.id) >= self.slots:
            await asyncio.sleep(LOOK_SECONDS)
            if final := self._cut(request, crashes):
                yield final
                return
        self.live[request.id] = "running"
        if request.pooling is not None:
            yield Output(id=request.id, finish="stop", vector=self._vector(request))
            return
        sampling, tokens = request.sampling, self.answer(request)
        for place, token in enumerate(tokens):
            while True:
                await asyncio.sleep(self.seconds_per_token)
                if final := self._cut(request, crashes):
                    yield final
                    return
                if not self.held:
                    break
            if token is None:
                yield Output(id=request.id, finish="error", error="the logits are not finite")
                return
            ends = token in request.eos_ids and not sampling.ignore_eos
            last = place + 1 == min(sampling.max_tokens or MAX_LEN, len(tokens))
            self.generated += 1
            yield Output(
                id=request.id,
                tokens=[token],
                logprobs=[] if sampling.logprobs is None else [_figures(token, sampling.logprobs)],
                prompt_logprobs=[]
                if sampling.prompt_logprobs is None or place
                else [_figures(token, sampling.prompt_logprobs) for token in request.prompt[1:]],
                finish="stop" if ends else "length" if last else None,
                cached=0 if place else len(request.prompt) // 32 * 32,
            )
            if ends or last:
                return

    def _vector(self, request: Request) -> bytes:
        """Numbers that depend on the prompt, of tasks of tokens on each token."""
        assert self.pooling is not None and request.pooling is not None
        each = [*range(self.pooling.width)][: request.pooling.dimensions]
        rows = request.prompt if request.pooling.of_tokens else [sum(request.prompt)]
        return array("f", [(row % (number + 2)) / 8 for row in rows for number in each]).tobytes()

    def _cut(self, request: Request, crashes: int) -> Output | None:
        """The last output of a request that the engine ends by itself."""
        if self.crashes != crashes:
            return Output(id=request.id, finish="error", error=self.detail)
        return Output(id=request.id, finish="abort") if self.stopped else None


def _figures(token: int, top: int) -> TokenLogprob:
    """Log-probabilities that depend on the token alone; the token is the second likeliest."""
    others = [(token + 1 + k) % VOCAB for k in range(20)]
    others.insert(1, token)
    return TokenLogprob(token, -2.0, 2, [(other, -1.0 - rank) for rank, other in enumerate(others[:top])])
