"""Grammars compiled beside the loop: a request waits here, unscheduled, until its grammar is ready; others go on.

Invariant: every request given to `submit` either comes back through `tell`, once, or was taken out by `withdraw`. One
thread compiles, in the order of arrival; llguidance holds no interpreter lock meanwhile. Knows no socket.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from octavo.core.errors import UserError
from octavo.core.request import Request
from octavo.text.grammar import refused


@dataclass(frozen=True, slots=True)
class Compiled:
    """The engine to itself: the grammar of a request is ready, or `error` says why it never will be."""

    id: str
    error: UserError | None = None


class Compiler:
    """`compile` makes a request's grammar ready or raises; `tell` is called in our thread when that is done."""

    def __init__(self, compile: Callable[[Request], None], tell: Callable[[Compiled], None]) -> None:
        self._compile = compile
        self._tell = tell
        self._waiting: dict[str, Request] = {}
        self._work: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> None:
        """Have the request's grammar compiled."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="octavo-grammar", daemon=True)
            self._thread.start()
        self._waiting[request.id] = request
        self._work.put(request)

    def withdraw(self, request_id: str) -> Request | None:
        """The request, which waits no longer; None where it does not wait (any more)."""
        return self._waiting.pop(request_id, None)

    def _run(self) -> None:
        while True:
            request = self._work.get()
            if request.id not in self._waiting:
                continue
            try:
                self._compile(request)
            except UserError as error:
                self._tell(Compiled(request.id, error))
            except BaseException as error:  # a panic of the library is no reason to fail anybody else
                self._tell(Compiled(request.id, refused(request.grammar_field, f"it cannot be compiled: {error}")))
            else:
                self._tell(Compiled(request.id))
