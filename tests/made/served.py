"""A real server on a free port of 127.0.0.1, in a thread, and a plain HTTP client over a raw socket."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette

from octavo.server.app import create_app
from octavo.server.config import ServerConfig
from octavo.server.front import Front
from octavo.server.run import Server, bind, settings

WAIT_SECONDS = 20.0


def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)
    return value


class Served:
    """A running server: `url`, `address`, its `app` and `front`."""

    def __init__(self, app: Starlette, server: Server, address: tuple[str, int]) -> None:
        self.app = app
        self.front: Front = app.state.front
        self.server = server
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}"

    def connect(self, receive_buffer: int | None = None) -> Conversation:
        """A new connection. receive_buffer: bytes the kernel takes in while nobody reads."""
        sock = socket.socket()
        sock.settimeout(WAIT_SECONDS)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(self.address)
        return Conversation(sock)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect()) as talk:
            talk.send(method, path, body, **headers)
            return talk.answer()

    def post(self, path: str, **fields: Any) -> Answer:
        """One JSON request."""
        return self.ask("POST", path, fields)


@contextlib.contextmanager
def served(
    client: Any, load: Callable[[], Any], *, limit: int = 200, send_buffer: int | None = None, **config: Any
) -> Iterator[Served]:
    """Serve inside; `config` are fields of ServerConfig. Fails if the server does not end by itself afterwards.

    limit: connections. send_buffer: bytes the kernel holds for each of them.
    """
    values = ServerConfig(**{"names": ("tiny", "also-tiny"), "port": 0, "drain_seconds": 0.2} | config)
    sock = bind(values)
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    app = create_app(client, load, values)
    made: uvicorn.Config = settings(app, limit)
    server = Server(made, app.state.front, values.drain_seconds)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield Served(app, server, sock.getsockname()[:2])
    finally:
        server.end()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "the server does not end"


class Answer:
    """A response: status, headers by lower-case name, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; asserts that the body is one and nothing else."""
        body = self.json
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
        return body["error"]

    @property
    def events(self) -> list[Any]:
        """The server-sent events: JSON values, or "[DONE]"."""
        lines = self.body.decode().split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


class Conversation:
    """One connection, spoken to by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """One request; a body that is not bytes is sent as JSON. Header names are written with underscores."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = {"host": "test", "content-type": "application/json", "content-length": str(len(data))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.sock.sendall(head.encode("latin-1") + b"\r\n" + data)

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of a response."""
        status = self._file.readline()
        assert status.startswith(b"HTTP/1.1 "), status
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return int(status.split()[1]), headers

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end or the connection's."""
        size = int(self._file.readline() or b"0", 16)
        data = self._file.read(size)
        self._file.readline()
        return data

    def answer(self) -> Answer:
        """A whole response."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self._file.read(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    def close(self) -> None:
        """In peace."""
        self._file.close()
        self.sock.close()

    def reset(self) -> None:
        """With RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
