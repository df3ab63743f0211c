"""The front's view of the engine: generate, abort, status; and the supervision of the engine process.

Invariant: every request that `generate` began ends with exactly one final output or with an exception before the first,
whatever happens to the engine; `_streams` holds exactly those the engine still owes an end, None where nobody reads on.
All methods belong to one event loop. Knows no HTTP, no text and no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from octavo.core.errors import InvalidValue, QueueFull, Unavailable, UserError
from octavo.core.plan import Output, StepStats
from octavo.core.request import Request, check_tokens
from octavo.core.status import EngineInfo, Status, check_kind
from octavo.engine.child import Begun, Child, adopt, begin
from octavo.engine.config import LaunchConfig
from octavo.engine.ipc import Abort, Failed, Outputs, Progress, Ready, Refused, Submit, ToFront

FIRST_BACKOFF_SECONDS = 0.5  # before the first restart; doubled for each that follows without success
LONGEST_BACKOFF_SECONDS = 30.0
LOAD_ATTEMPTS = 5  # deaths in a row before the engine was ready, after which we give up
TICK_SECONDS = 0.5  # between looks for signs of life
ABORT_SECONDS = 2.0  # for the engine to confirm the aborts of a stop


class Stream:
    """What came for one request and was not read yet. One reader; `put` wakes it at most once until it has looked."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[Output | UserError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Output | UserError) -> None:
        """Add one."""
        self._items.append(item)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def get(self) -> Output | UserError:
        """Take the oldest, as soon as there is one."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()


class EngineClient(Protocol):
    """What the server needs of an engine, wherever it runs."""

    async def start(self) -> None:
        """Begin to load; returns at once. `status` tells how far it is."""

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new requests, let those in flight end for at most this long, abort the rest, and end the engine."""

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Outputs of one request, up to the one with `finish` set. Leaving the generator aborts the request.

        Raises Unavailable, QueueFull or InvalidValue before the first output, and nothing after it: an engine that
        dies gives finish "error".
        """

    async def abort(self, request_id: str) -> None:
        """End a request in any state: its stream ends with "abort". Ids that are not in flight are ignored."""

    def status(self) -> Status:
        """One look at the engine; never blocks."""


class ProcessClient:
    """The engine in a process of its own, restarted when it dies or gives no sign of life for `stall_seconds`.

    No single step may take as long. A model that cannot be served ends in state "dead" at once, and so do five deaths
    in a row while loading. `start_child` starts the process.
    """

    def __init__(
        self,
        launch: LaunchConfig,
        *,
        stall_seconds: float = 60.0,
        start_child: Callable[[LaunchConfig], Begun] = begin,
    ) -> None:
        self._launch = launch
        self._start_child = start_child
        self._stall_seconds = stall_seconds
        self._state = "loading"
        self._progress = 0.0
        self._detail = "not started"
        self._info: EngineInfo | None = None
        self._stats = StepStats()
        self._restarts = 0
        self._heard = time.monotonic()
        self._hopeless = False  # the engine said that another start would end the same way
        self._streams: dict[str, Stream | None] = {}
        self._empty = asyncio.Event()  # set whenever the last of the streams goes
        self._begun: Begun | None = None
        self._child: Child | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the first engine process already, before there is an event loop: `start` takes it over.

        To be called in the event loop's thread. Raises OSError.
        """
        assert self._begun is None and self._supervisor is None, "begun twice"
        self._begun = self._start_child(self._launch)

    async def start(self) -> None:
        """Begin to load; returns at once."""
        assert self._supervisor is None, "started twice"
        self._detail = "starting the engine process"
        self._supervisor = asyncio.create_task(self._supervise())

    def status(self) -> Status:
        """One look at the engine."""
        return Status(
            state=self._state,
            progress=self._progress,
            detail=self._detail,
            info=self._info,
            stats=self._stats,
            heartbeat_age=max(time.monotonic() - self._heard, 0.0),
            restarts=self._restarts,
        )

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Outputs of one request; see EngineClient."""
        if self._state != "ready" or self._info is None or self._child is None:
            raise Unavailable(f"the engine is {self._state}" + (f": {self._detail}" if self._detail else ""))
        check_kind(request, self._info.pooling)
        check_tokens(request, self._info.vocab)
        if request.id in self._streams:
            raise InvalidValue("id", request.id, "an id that no request in flight has")
        try:
            self._child.send(Submit(request))
        except OverflowError:
            raise InvalidValue("request", "an integer of more than 64 bits", "integers of at most 64 bits") from None
        stream = self._streams[request.id] = Stream()
        try:
            while True:
                item = await stream.get()
                if isinstance(item, UserError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            if self._streams.get(request.id) is stream:  # left before its end
                self._streams[request.id] = None
                await self.abort(request.id)

    async def abort(self, request_id: str) -> None:
        """End a request in any state; its stream ends with "abort"."""
        if request_id in self._streams and self._child is not None:
            self._child.send(Abort(request_id))

    async def stop(self, grace_seconds: float) -> None:
        """Drain, abort what is left, and end the engine process. May be called twice, and before `start`."""
        if self._state != "dead":
            self._state, self._detail = "draining", "the server is stopping"
        await self._drained(grace_seconds)
        for request_id in list(self._streams):
            await self.abort(request_id)
        await self._drained(ABORT_SECONDS)
        if self._begun is not None:  # and `start` never came
            await (await adopt(self._begun, self._receive)).end()
            self._begun = None
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        for request_id in list(self._streams):  # the engine did not confirm in time
            self._deliver(Output(id=request_id, finish="abort"))
        if self._state != "dead":
            self._state, self._detail = "dead", "stopped"

    async def _drained(self, seconds: float) -> None:
        """Wait until nothing is in flight, or for this long."""
        if self._streams:
            self._empty.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    async def _supervise(self) -> None:
        """Keep one engine process running until that is hopeless, or nobody wants it any more."""
        backoff, failures = FIRST_BACKOFF_SECONDS, 0
        while True:
            ready, reason = await self._life()
            if ready:
                backoff, failures = FIRST_BACKOFF_SECONDS, 0
            else:
                failures += 1
            if self._hopeless or failures >= LOAD_ATTEMPTS:
                self._state, self._detail = "dead", reason
            if self._state in ("dead", "draining"):
                return
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            self._restarts += 1
            self._heard = time.monotonic()

    async def _life(self) -> tuple[bool, str]:
        """One engine process from start to end: whether it was ever ready, and why it ended."""
        try:
            begun, self._begun = self._begun or self._start_child(self._launch), None
            child = self._child = await adopt(begun, self._receive)
        except Exception as error:  # whatever it is: the server must learn that there is no engine
            self._bury(f"the engine process did not start: {type(error).__name__}: {error}")
            return False, self._detail
        try:
            stalled = await self._watch(child)
            self._child = None
            # Those in flight are told at once; a process with much memory takes its time to be gone.
            self._bury(child.reason or "the engine died")
            reason = await child.end(kill=stalled)
        finally:
            self._child = None
            await child.end(kill=False)
        if self._state == "restarting" and not child.reason:
            self._detail = f"the engine died: {reason}"
        return child.ready, reason

    async def _watch(self, child: Child) -> bool:
        """Wait for the child's end. True: it is silent for too long and should be killed.

        Silence is counted in our own ticks, so that a time in which the whole machine slept does not count.
        """
        silent, heard = 0.0, self._heard
        while not child.gone.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(child.gone.wait(), TICK_SECONDS)
            silent, heard = (0.0 if self._heard != heard else silent + TICK_SECONDS), self._heard
            if silent >= self._stall_seconds:
                child.reason = f"the engine gave no sign of life for {silent:.0f} seconds"
                return True
        return False

    def _bury(self, reason: str) -> None:
        """The engine is gone: say why, and end its requests."""
        self._info, self._progress, self._stats = None, 0.0, StepStats()
        if self._state not in ("dead", "draining"):
            self._state, self._detail = "restarting", reason
        for request_id in list(self._streams):
            self._deliver(Output(id=request_id, finish="error", error=reason))

    def _receive(self, child: Child, message: ToFront) -> None:
        """Handle one message of the engine."""
        self._heard = time.monotonic()
        match message:
            case Outputs(outputs, stats):
                self._stats = stats
                for output in outputs:
                    self._deliver(output)
            case Progress(share, what):
                self._progress = share
                if self._state != "draining":
                    self._detail = what
            case Ready(info):
                child.ready = True
                self._info, self._progress = info, 1.0
                if self._state != "draining":
                    self._state, self._detail = "ready", ""
            case Refused():
                if (stream := self._close(message.id)) is not None:
                    stream.put(_error(message))
            case Failed(reason, hopeless):
                child.reason, self._hopeless = reason, hopeless

    def _deliver(self, output: Output) -> None:
        """To the request's stream, if somebody still reads it."""
        stream = self._streams.get(output.id) if output.finish is None else self._close(output.id)
        if stream is not None:
            stream.put(output)

    def _close(self, request_id: str) -> Stream | None:
        """The engine owes this request nothing more."""
        stream = self._streams.pop(request_id, None)
        if not self._streams:
            self._empty.set()
        return stream


def _error(refused: Refused) -> UserError:
    """The error the engine refused a request with; its message is whole already."""
    if refused.kind == QueueFull.__name__:
        return QueueFull(refused.message, refused.field, refused.code)
    error = InvalidValue(refused.field or "request", None, "")
    error.args, error.code = (refused.message,), refused.code
    return error
