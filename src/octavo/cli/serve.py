"""`octavo serve`: one model over the OpenAI API, until SIGTERM or Ctrl-C.

Reads the file's header before it listens, so that a damaged one ends the command at once. The engine process starts
first, and all that only the front needs is imported while it loads. Prints one block when ready. Everything about
requests is the server's.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from octavo import __version__
from octavo.checkpoint.source import Source, open_source
from octavo.cli import flags, resolve
from octavo.cli.progress import Progress
from octavo.core.errors import ModelError
from octavo.core.status import EngineInfo, PoolingInfo
from octavo.core.table import binary, columns, count
from octavo.engine.client import ProcessClient
from octavo.engine.config import LaunchConfig
from octavo.server.address import bind
from octavo.server.config import ServerConfig

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

POLL_SECONDS = 0.1  # between looks at how far loading is


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    told = config(args)
    path = resolve.path(args)
    began = time.monotonic()
    launch = resolve.launch(args, path)
    language = Language(args, path)
    with bind(told) as sock:
        client = ProcessClient(launch)
        client.begin()  # the engine loads while the server is imported
        sock.listen()  # who asks before the server runs waits, and is not refused
        url = address(sock)
        print(f"octavo: loading {args.model}; status at {url}/ready", file=sys.stderr, flush=True)
        watch = Watch(client)

        def ready(info: EngineInfo) -> None:
            gc.freeze()  # what is loaded stays: it need not be looked through ever again
            gc.enable()
            watch.stop()
            about = {"model": told.names[0], "licence": language.licence or "not stated", "file": str(path)}
            command = curl(url, told, language.tokenizer, info.pooling)
            print(block(info, about, url, time.monotonic() - began, command), flush=True)

        gc.disable()  # until all is loaded: importing makes much, and little garbage
        try:
            from octavo.server.run import serve  # late: the engine is under way

            serve(client, language.load, told, sock=sock, on_ready=ready)
        except ModelError:
            _check(launch)
            raise
        finally:
            watch.stop()
    return 0


def _check(launch: LaunchConfig) -> None:
    """Raise what is wrong with a launch that failed as the command line knows it: by the flag."""
    from octavo.engine.launch import memory_plan  # late: the engine process alone needs it, if all is well

    memory_plan(launch)


def config(args: argparse.Namespace) -> ServerConfig:
    """What the server is told, from the flags. Raises InvalidValue."""
    told = flags.section(args, "server")
    told["names"] = tuple(told["names"] or [args.model])
    told["api_keys"] = tuple(told["api_keys"] or ())
    return ServerConfig(**told, priorities=args.scheduling_policy == "priority")


class Language:
    """Loads the tokenizer when the server asks, and keeps it for the command that is shown. Raises ModelError."""

    def __init__(self, args: argparse.Namespace, path: Path) -> None:
        self._source: Source | None = open_source(path)
        self.licence = resolve.licence(args, self._source)
        self.tokenizer: Tokenizer | None = None

    def load(self) -> Tokenizer | None:
        """The model's tokenizer, None where it has none. Once: the file's vocabulary is let go of."""
        from octavo.text.tokenizer import load_tokenizer  # late: the engine is under way

        assert self._source is not None, "loaded twice"
        with self._source:
            self.tokenizer = load_tokenizer(self._source)
        self._source = None
        return self.tokenizer


class Watch:
    """Shows how far loading is, from a thread of its own, until `stop`."""

    def __init__(self, client: ProcessClient) -> None:
        self._client = client
        self._progress = Progress(sys.stderr)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="octavo-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave the line. May be called twice."""
        self._done.set()
        self._thread.join()
        self._progress.close()

    def _look(self) -> None:
        while not self._done.wait(POLL_SECONDS):
            status = self._client.status()
            if status.state == "loading":
                self._progress.share("loading", status.progress)


def address(sock: socket.socket) -> str:
    """The URL at which this machine reaches a bound socket."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl(url: str, told: ServerConfig, tokenizer: Tokenizer | None, pooling: PoolingInfo | None = None) -> str:
    """A command to paste: a chat, or what the model can do of it."""
    body: dict[str, object] = {"model": told.names[0], "max_tokens": 100, "temperature": 0}
    path = "/v1/completions"
    if pooling is not None:
        path = "/classify" if pooling.labels else "/v1/embeddings"
        body = {"model": told.names[0], "input": [1, 2, 3] if tokenizer is None else "Why is the sky blue?"}
    elif tokenizer is None:
        body["prompt"] = [1, 2, 3]
    elif tokenizer.chat_template is None:
        body["prompt"] = "Once upon a time"
    else:
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": "Why is the sky blue?"}]
    key = ' -H "Authorization: Bearer $KEY"' if told.api_keys else ""
    return f"curl {url}{path}{key} -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.dumps(body))}"


def gives(pooling: PoolingInfo) -> str:
    """What a model gives instead of text."""
    if not pooling.labels:
        return f"embeddings of {count(pooling.width, 'number')}"
    named = ", ".join(pooling.labels[:6]) + (", ..." if len(pooling.labels) > 6 else "")
    return f"scores of {count(len(pooling.labels), 'label')}: {named}"


def block(info: EngineInfo, about: dict[str, str], url: str, seconds: float, command: str) -> str:
    """What is printed when ready; `seconds` since the command began, `command` to paste."""
    computing = info.isa or f"none: the {info.executor} executor"
    whole = count(info.pages // info.sequence_pages, "sequence")
    room = f"{info.pages // info.groups * info.page} tokens at once: {whole} of {info.max_len}"
    planned = sum(info.memory.values())
    rows = [*about.items(), ("kernels", f"{computing}, {count(info.threads, 'thread')}"), ("room", room)]
    if info.pooling is not None:
        rows += [("gives", gives(info.pooling))]
    rows += [("memory", f"{binary(planned)} planned")]
    parts = [(name.replace("_", " "), binary(size)) for name, size in info.memory.items()]
    return "\n".join(
        [
            f"Octavo {__version__} is ready on {url} after {seconds:.1f} s.",
            "",
            columns(rows),
            columns(parts, right=(1,), indent=9),
            "",
            command,
            "",
        ]
    )
