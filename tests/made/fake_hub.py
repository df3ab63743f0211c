"""A Hugging Face hub on 127.0.0.1 for tests: the few addresses that huggingface_hub asks for model files.

    with FakeHub({"org/name": {"config.json": b"{}"}}) as hub: ... hub.endpoint ...

`gated` repositories answer only with the token "open-sesame". `cut`: file names whose body breaks off in the middle.
`requests` records method and path of everything asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "open-sesame"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    def __init__(self, repositories: dict[str, dict[str, bytes]], *, gated=(), revisions=("main",)) -> None:
        self.repositories = repositories
        self.gated = set(gated)
        self.revisions = {*revisions, COMMIT}
        self.cut: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(_Handler):
            owner = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeHub:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeHub

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append((self.command, path))
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
            return
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self._allowed(repository, revision):
            files = self.owner.repositories[repository]
            if name in files:
                self._file(name, files[name])
            else:
                self._fail(404, "EntryNotFound", "Entry not found")

    def _api(self, path: str) -> None:
        repository, revision, what = path, "main", "info"
        for kind, mark in (("tree", "/tree/"), ("info", "/revision/")):
            if mark in path:
                repository, _, revision = path.partition(mark)
                what = kind
        if not self._allowed(repository, revision):
            return
        files = self.owner.repositories[repository]
        if what == "tree":
            self._json([{"type": "file", "path": n, "size": len(b), "oid": _oid(b)} for n, b in files.items()])
        else:
            siblings = [{"rfilename": n, "size": len(b), "blobId": _oid(b)} for n, b in files.items()]
            self._json({"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    def _allowed(self, repository: str, revision: str) -> bool:
        if repository not in self.owner.repositories:
            self._fail(404, "RepoNotFound", "Repository not found")
        elif repository in self.owner.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "GatedRepo", "Access to this model is restricted")
        elif revision not in self.owner.revisions:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        else:
            return True
        return False

    def _file(self, name: str, data: bytes) -> None:
        start = 0
        asked = self.headers.get("Range")
        if asked and asked.startswith("bytes="):
            start = int(asked[6:].split("-")[0])
        body = data[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET" and name in self.owner.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        elif self.command == "GET":
            self.wfile.write(body)

    def _json(self, value) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
