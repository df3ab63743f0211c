"""The loop: plan, run, commit. One thread, one caller; what is added between steps takes part in the next.

Invariant: every request that `add` accepts ends with exactly one final output, from `step` or from `abort`. What
cannot be served is refused before anything is touched, so no request can make a step fail. Whatever `step` raises is an
engine fault, after which the engine is not to be used: who drives it tells those in flight. Knows no text, no socket.
"""

from __future__ import annotations

import time

import msgspec

from octavo.core.errors import EngineFault, UserError
from octavo.core.plan import Output, StepStats
from octavo.core.request import Request, check_tokens
from octavo.core.status import PoolingInfo, check_kind
from octavo.engine.limits import resident_bytes
from octavo.sched.scheduler import Scheduler
from octavo.worker.worker import Worker

LOOK_SECONDS = 1.0  # between looks at the memory of the process


class Engine:
    """Scheduler and worker, stepping together. `vocab` bounds the token ids of requests; `pooling`: see EngineInfo."""

    def __init__(self, scheduler: Scheduler, worker: Worker, *, vocab: int, pooling: PoolingInfo | None = None) -> None:
        self._grammars = worker.guides.grammars
        self._pooling = pooling
        self._scheduler = scheduler
        self._worker = worker
        self._vocab = vocab
        self._step_seconds = 0.0
        self._resident_bytes = resident_bytes()
        self._looked = time.monotonic()

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self._scheduler.has_work

    def add(self, request: Request) -> None:
        """Accept a request. Raises UserError, and then nothing has changed."""
        check_kind(request, self._pooling)
        check_tokens(request, self._vocab)
        self._worker.processors.check(request)
        if request.grammar:
            self.compile(request)
        try:
            self._scheduler.add(request)
        except UserError:
            self.forget(request.id)
            raise

    def must_compile(self, request: Request) -> bool:
        """Whether `add` would take a while, for a grammar that was not met before."""
        return bool(request.grammar) and self._grammars is not None and not self._grammars.take(request)

    def compile(self, request: Request, *, wait: bool = False) -> None:
        """Make a request's grammar ready; it stays until the request ends. Any thread may do so.

        wait: while other requests hold as many grammars as may be. Raises UserError where it cannot be compiled.
        """
        if self._grammars is None:
            raise UserError(f"{request.grammar_field}: this engine matches no grammars", request.grammar_field)
        self._grammars.hold(request, wait=wait)

    def forget(self, request_id: str) -> None:
        """A request whose grammar was compiled will not come, or is gone."""
        if self._grammars is not None:
            self._grammars.release(request_id)

    def abort(self, request_id: str) -> Output | None:
        """End a request in any state; its last output, or None where there is no such request (any more)."""
        self.forget(request_id)
        return self._scheduler.abort(request_id)

    def step(self) -> list[Output]:
        """One step, if there is work. The outputs of requests with new tokens or an end."""
        began = time.monotonic()
        plan = self._scheduler.plan()
        if plan is None:
            return []
        outputs = self._scheduler.commit(plan, self._worker.run(plan))
        for output in outputs:
            if output.finish is not None:
                self.forget(output.id)
        self._step_seconds = time.monotonic() - began
        self._scheduler.learn(self._step_seconds)
        return outputs

    def stats(self) -> StepStats:
        """State and totals after the last step."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:  # pages are touched behind our back, so it grows
            self._resident_bytes, self._looked = resident_bytes(), now
        processors = self._worker.processors
        return msgspec.structs.replace(
            self._scheduler.stats(),
            step_seconds=self._step_seconds,
            resident_bytes=self._resident_bytes,
            processor_seconds=dict(processors.seconds),
            processor_calls=dict(processors.calls),
        )

    def check(self) -> None:
        """Self-check of an idle engine: nothing is held, and the books add up. Raises EngineFault."""
        try:
            self._scheduler.check()
        except AssertionError as error:
            raise EngineFault(f"the scheduler's books are wrong: {error}") from error
        held = self._scheduler.stats().pages_held
        if held and not self.has_work:
            raise EngineFault(f"{held} pages are held and there is no request")

    def close(self) -> None:
        """Release threads and memory. May be called twice."""
        self._worker.close()
        if self._grammars is not None:
            self._grammars.close()
