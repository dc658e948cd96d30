"""A small HTTP server in a thread, on a port of 127.0.0.1 that the kernel chooses, that logs what it was asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class Log:
    """Requests to several servers, in the order in which they came."""

    lines: list[tuple[str, bool]] = field(default_factory=list)
    """(line, whether it asked for bytes of an image)"""

    def add(self, line: str, *, data: bool = False) -> None:
        self.lines.append((line, data))


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with answers that say their length; `self.stand` is the `LoopbackServer`."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    stand: LoopbackServer

    def setup(self) -> None:
        super().setup()
        self.stand = self.server.stand  # type: ignore[attr-defined]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Header names with `_` for `-`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the stand logs what it wants to know."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no error."""


class LoopbackServer:
    """Runs while it is entered. Args: log: shared with other servers of a stand."""

    handler: type[Handler]

    def __init__(self, log: Log | None = None) -> None:
        self.log = log if log is not None else Log()
        self._server = _Server(("127.0.0.1", 0), self.handler)
        self._server.stand = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
