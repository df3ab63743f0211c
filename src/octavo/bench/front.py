"""What serving costs beside the engine: processor time of the front process while it streams.

usage: python -m octavo.bench.front MODEL [--streams 32] [--rate 1000] [--seconds 10] [--prompt 256] [--tokens 64]

A real server with a real engine process, whose executor takes no time and gives `rate` tokens a second (bench/null.py),
and as many clients as there are streams, each with one connection, asking again when its answer ends. For each way of
asking: the share of one core that the front's process takes, system time included, at the rate that came about.
Knows no model but its headers and its tokenizer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import selectors
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

from octavo.bench.processes import cpu_seconds, family
from octavo.bench.startup import answers
from octavo.checkpoint.source import open_source
from octavo.core.config import SchedulerConfig
from octavo.engine.child import begin
from octavo.engine.client import ProcessClient
from octavo.engine.config import LaunchConfig
from octavo.server.address import bind
from octavo.server.config import ServerConfig
from octavo.server.run import serve
from octavo.text.tokenizer import Tokenizer, load_tokenizer

WORDS = (
    "the of and a to in is you that it he was for on are as with his they at be this from have or by one had not but"
)
SERVE = (
    "import sys; model, streams, rate, fd, *sys.path = sys.argv[1:]; "
    "from octavo.bench.front import run_server; run_server(model, int(streams), float(rate), int(fd))"
)
ENGINE = (
    "import sys; fd, parent, *sys.path = sys.argv[1:]; from functools import partial; "
    "from octavo.engine.process import main; from octavo.bench.null import build; "
    "main(int(fd), int(parent), partial(build, step_seconds={seconds!r}))"
)
END = b"0\r\n\r\n"  # of a chunked body
READY_SECONDS = 60.0
WARM_SECONDS = 2.0
SETTLE_SECONDS = 0.5  # until the engine has dropped the sequences of who left
KINDS = ("completions", "completions of token ids", "chat")


def run_server(model: str, streams: int, rate: float, fd: int) -> None:
    """Serve on a bound socket in this process until it is terminated."""

    def load() -> Tokenizer | None:
        with open_source(Path(model)) as source:
            return load_tokenizer(source)

    scheduler = SchedulerConfig(max_seqs=streams, max_step_tokens=max(512, streams))
    start = partial(begin, code=ENGINE.format(seconds=streams / rate))
    client = ProcessClient(LaunchConfig(model=model, name="null", scheduler=scheduler), start_child=start)
    serve(client, load, ServerConfig(names=("bench",)), sock=socket.socket(fileno=fd))


class Clients:
    """`streams` connections to a server, each asking again when its answer is whole. `bytes` counts what came."""

    def __init__(self, port: int, streams: int, *, kind: str, prompt: int, tokens: int) -> None:
        self._kind, self._prompt, self._tokens = kind, prompt, tokens
        self._random = random.Random(0)
        self._selector = selectors.DefaultSelector()
        self.bytes = self.requests = 0
        for _ in range(streams):
            sock = socket.create_connection(("127.0.0.1", port))
            self._selector.register(sock, selectors.EVENT_READ, [b""])
            self._ask(sock)

    def run(self, seconds: float) -> None:
        """Read and ask for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._read(key.fileobj, key.data)  # type: ignore[arg-type]

    def close(self) -> None:
        """Leave."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _read(self, sock: socket.socket, tail: list[bytes]) -> None:
        data = sock.recv(1 << 16)
        if not data or (data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"not a stream: {data[-300:]!r}")
        self.bytes += len(data)
        tail[0] = (tail[0] + data)[-len(END) :]
        if tail[0] == END:
            self._ask(sock)

    def _ask(self, sock: socket.socket) -> None:
        asked: dict[str, object] = {"max_tokens": self._tokens, "ignore_eos": True, "stream": True}
        path = "/v1/completions"
        if self._kind == KINDS[1]:
            asked["prompt"] = [self._random.randrange(20, 120) for _ in range(self._prompt)]
        else:
            text = " ".join(self._random.choices(WORDS.split(), k=self._prompt))
            if self._kind == KINDS[0]:
                asked["prompt"] = text
            else:
                path, asked["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
        body = json.dumps(asked).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        sock.sendall(head.encode() + body)
        self.requests += 1


def generated(port: int) -> int:
    """Tokens the engine has generated, by the server's own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        found = re.search(rb"^octavo_generated_tokens_total ([0-9.e+]+)", page.read(), re.MULTILINE)
    assert found is not None, "the server does not count its tokens"
    return int(float(found[1]))


def wait_ready(port: int) -> None:
    """Return when requests are accepted. Raises TimeoutError."""
    deadline = time.monotonic() + READY_SECONDS
    while not answers(port, "/ready"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server was not ready after {READY_SECONDS:g} s")
        time.sleep(0.05)


def measure(port: int, pids: tuple[int, int], kind: str, args: argparse.Namespace) -> str:
    """One way of asking, in words; pids are the front's and the engine's."""
    clients = Clients(port, args.streams, kind=kind, prompt=args.prompt, tokens=args.tokens)
    clients.run(min(args.seconds, WARM_SECONDS))

    def marks() -> tuple[float, ...]:
        front, engine = map(cpu_seconds, pids)  # the engine is the front's child, and counts for both
        return front - engine, engine, generated(port), clients.requests, time.monotonic()

    before = marks()
    clients.run(args.seconds)
    front, engine, tokens, requests, seconds = (after - mark for after, mark in zip(marks(), before, strict=True))
    clients.close()
    return (
        f"{kind}: front {front / seconds:.1%} of one core, null engine {engine / seconds:.1%}, "
        f"at {tokens / seconds:.0f} tokens/s, {requests / seconds:.1f} requests/s; "
        f"{1e6 * front / max(tokens, 1):.0f} us a token"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m octavo.bench.front", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a .gguf file or a folder, of which headers and tokenizer are read")
    parser.add_argument("--streams", type=int, default=32, help="answers streamed at once (default: 32)")
    parser.add_argument("--rate", type=float, default=1000, help="tokens a second, of all streams (default: 1000)")
    parser.add_argument("--seconds", type=float, default=10, help="of measuring, for each kind (default: 10)")
    parser.add_argument("--prompt", type=int, default=256, help="words or tokens of a prompt (default: 256)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer (default: 64)")
    args = parser.parse_args(argv)
    with bind(ServerConfig(names=("bench",), port=0)) as sock:
        port = sock.getsockname()[1]
        told = [args.model, str(args.streams), str(args.rate), str(sock.fileno()), *sys.path]
        server = subprocess.Popen([sys.executable, "-c", SERVE, *told], pass_fds=[sock.fileno()])
    try:
        wait_ready(port)
        engine = family(server.pid)[1]
        print(f"{args.streams} streams, prompts of {args.prompt}, answers of {args.tokens}; front {server.pid}")
        for kind in KINDS:
            print(measure(port, (server.pid, engine), kind, args), flush=True)
            time.sleep(SETTLE_SECONDS)
    finally:
        server.terminate()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
