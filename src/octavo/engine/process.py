"""The engine process: one thread loads and steps, one reads the socket, and it never outlives the front.

Started by engine/client.py with one end of a socket pair. Invariant: when the front is gone, whatever the engine is
doing, the process ends: the reading thread sees the socket's end, and the kernel kills us should even that thread hang.
Signals meant for the whole group (Ctrl-C, a service manager's SIGTERM) are ignored: the front decides. Exit codes: 0
the front left, 1 a fault, 2 a model or a setting that cannot be served. Knows no HTTP and no text.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial

from octavo.core.errors import EngineFault, ModelError, UserError
from octavo.core.plan import Output
from octavo.core.request import Request
from octavo.core.status import EngineInfo
from octavo.engine.compile import Compiled, Compiler
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.ipc import (
    Abort,
    Failed,
    Frames,
    Heartbeat,
    Launch,
    Outbox,
    Outputs,
    Progress,
    Ready,
    Refused,
    Submit,
    ToEngine,
    to_engine,
)
from octavo.engine.launch import Progress as Told
from octavo.engine.launch import build_engine

BEAT_SECONDS = 0.5  # a sign of life at least this often, while loading or idle
RETRY_SECONDS = 0.01  # between attempts to send what a slow front has not taken
FAREWELL_SECONDS = 2.0  # for the last message to reach the front
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Inbox = queue.SimpleQueue[ToEngine | Compiled]
Build = Callable[[LaunchConfig, Told], tuple[Engine, EngineInfo]]


def main(fd: int, parent: int, build: Build = build_engine) -> None:
    """Serve the front at the other end of socket `fd`, whose process is `parent`. Does not return."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    outbox = Outbox(sock)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sock, inbox), name="octavo-socket", daemon=True).start()
    code = 1
    try:
        engine = _load(inbox.get(), outbox, build)
        if engine is None:
            code = 2
        else:
            serve(engine, inbox, outbox)
    except BaseException as error:
        traceback.print_exc()
        outbox.send(Failed(f"{type(error).__name__}: {error}", final=False))
    sys.stderr.flush()
    outbox.finish(FAREWELL_SECONDS)
    os._exit(code)  # native threads and the reading thread may be anywhere


def serve(engine: Engine, inbox: Inbox, outbox: Outbox) -> None:
    """Step while there is work, wait while there is none; ends only by an exception, which is a fault."""
    checked = False
    compiler = Compiler(partial(engine.compile, wait=True), inbox.put)
    while True:
        changed = _take(engine, compiler, inbox, outbox, wait=not engine.has_work)
        if engine.has_work:
            outbox.send(Outputs(engine.step(), engine.stats()))
            checked = False
        elif not changed:
            outbox.beat(Outputs([], engine.stats()))
            if not checked:
                engine.check()
                checked = True


def _take(engine: Engine, compiler: Compiler, inbox: Inbox, outbox: Outbox, *, wait: bool) -> bool:
    """Handle all messages there are; with `wait`, wait up to a beat for the first. Whether there were any."""
    sent = outbox.flush()
    taken = False
    try:
        message = inbox.get(timeout=BEAT_SECONDS if sent else RETRY_SECONDS) if wait else inbox.get_nowait()
        while True:
            taken = True
            _handle(engine, compiler, message, outbox)
            message = inbox.get_nowait()
    except queue.Empty:
        return taken


def _handle(engine: Engine, compiler: Compiler, message: ToEngine | Compiled, outbox: Outbox) -> None:
    match message:
        case Submit(request) if engine.must_compile(request):
            compiler.submit(request)
        case Submit(request):
            _add(engine, request, outbox)
        case Compiled(request_id, error):
            ready = compiler.withdraw(request_id)
            if ready is None:
                engine.forget(request_id)
            elif error is None:
                _add(engine, ready, outbox)
            else:
                _refuse(request_id, error, outbox)
        case Abort(request_id):
            waits = compiler.withdraw(request_id) is not None
            output = Output(id=request_id, finish="abort") if waits else engine.abort(request_id)
            if output is not None:
                outbox.send(Outputs([output], engine.stats()))
        case _:
            raise EngineFault(f"the front sent {type(message).__name__} to an engine that runs")


def _add(engine: Engine, request: Request, outbox: Outbox) -> None:
    try:
        engine.add(request)
    except UserError as error:
        _refuse(request.id, error, outbox)


def _refuse(request_id: str, error: UserError, outbox: Outbox) -> None:
    outbox.send(Refused(request_id, type(error).__name__, str(error), error.field, error.code))


def _load(launch: ToEngine | Compiled, outbox: Outbox, build: Build) -> Engine | None:
    """Build the engine, with progress and signs of life on the way. None: it cannot be built, and the front knows."""
    if not isinstance(launch, Launch):
        raise EngineFault(f"the front began with {type(launch).__name__}")
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            outbox.beat(Heartbeat())

    beats = threading.Thread(target=beat, name="octavo-beat", daemon=True)
    beats.start()
    try:
        engine, info = build(launch.config, lambda share, what: outbox.send(Progress(share, what)))
    except (ModelError, UserError) as error:
        outbox.send(Failed(str(error), final=True))
        return None
    except MemoryError:
        outbox.send(Failed("the machine refused the memory the plan asks for; set a smaller --memory", final=True))
        return None
    finally:
        done.set()
        beats.join()
    outbox.send(Ready(info))
    outbox.send(Outputs([], engine.stats()))
    return engine


def _read(sock: socket.socket, inbox: Inbox) -> None:
    """Pass on what the front says, until it is gone: then end the process, whatever it is doing."""
    frames = Frames()
    try:
        while data := sock.recv(1 << 18):
            for body in frames.feed(data):
                inbox.put(to_engine.decode(body))
    except OSError:
        pass  # reset: as good as an end
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, also if that happened already (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
