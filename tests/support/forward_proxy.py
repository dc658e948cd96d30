"""A forward proxy of HTTP in a thread: CONNECT for HTTPS, whole addresses for plain HTTP, a password if wanted."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """Use it as a context manager. `log` has the head of each request that it was sent.

    Args:
        password: "name:password" that it asks for (407), "" for none.
        refuses: it connects nobody (403).
    """

    def __init__(self, password: str = "", *, refuses: bool = False) -> None:
        self.log: list[str] = []
        self._password = base64.b64encode(password.encode()).decode() if password else ""
        self._refuses = refuses
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            while head := _read_head(near):
                self.log.append(head)
                refusal = self._refusal(head)
                if refusal:
                    near.sendall(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                    continue
                method, target, _ = head.split("\r\n")[0].split(" ")
                if method == "CONNECT":
                    self._tunnel(near, target)
                    return
                self._forward(near, head, target)
                return

    def _refusal(self, head: str) -> str:
        if self._password and f"proxy-authorization: basic {self._password}".lower() not in head.lower():
            return "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=proxy"
        return "403 Forbidden" if self._refuses else ""

    def _tunnel(self, near: socket.socket, target: str) -> None:
        far = self._connect(target)
        near.sendall(b"HTTP/1.1 200 Connected\r\nX-Proxy: 1\r\n\r\n")
        self._pump(near, far)

    def _forward(self, near: socket.socket, head: str, target: str) -> None:
        """One request, and its answer up to the end of the connection."""
        parts = urlsplit(target)
        far = self._connect(parts.netloc)
        lines = [
            line for line in head.split("\r\n")[1:] if not line.lower().startswith(("proxy-", "connection"))
        ]
        path = parts._replace(scheme="", netloc="").geturl()
        lines = [f"GET {path} HTTP/1.1", *filter(None, lines), "Connection: close"]
        far.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        self._pump(near, far)

    def _connect(self, netloc: str) -> socket.socket:
        host, _, port = netloc.rpartition(":")
        far = socket.create_connection((host, int(port)), timeout=10)
        far.settimeout(None)
        self._sockets.append(far)
        return far

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        threading.Thread(target=_copy, args=(near, far), daemon=True).start()
        _copy(far, near)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(64 << 10):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _read_head(connection: socket.socket) -> str:
    """Up to the empty line; "" at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return ""
        head += byte
    return head.decode("latin-1")
