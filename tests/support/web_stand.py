"""What stand-ins of registries have in common: a threaded HTTP server on loopback with a log, and files by ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def json(cls, content: Any, status: int = 200, **headers: str) -> Reply:
        return cls(status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode())


@dataclass(frozen=True)
class Asked:
    """One request; header names in lower case, `path` decoded."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def line(self) -> str:
        return f"{self.method} {self.path} {self.headers.get('range', '-')}"


class WebStand:
    """A server that answers with `answer`; override it. `log` has what was asked."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.log: list[Asked] = []
        stand = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, unquote(parts.path), parts.query, headers)
                stand.log.append(asked)
                reply = stand.answer(asked)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if not {"content-length", "Content-Length"} & reply.headers.keys():
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                """A client that leaves early is none of ours."""

        self._server = Server((host, port), Handler)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def answer(self, asked: Asked) -> Reply:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def file_reply(data: bytes, asked: Asked) -> Reply:
    """The file by ranges and conditions, as storage answers."""
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if asked.headers.get("if-match", etag) != etag:
        return Reply(412, headers)
    if asked.headers.get("if-none-match") == etag:
        return Reply(304, headers)
    first, _, last = asked.headers.get("range", "").removeprefix("bytes=").partition("-")
    if not first:
        return Reply(200, headers, data)
    start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Reply(206, headers, data[start:stop])
