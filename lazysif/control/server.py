"""The control socket: status as JSON and Prometheus metrics, over HTTP on a Unix socket.

waitress serves it from threads of its own, so that it answers while the trio thread is busy or the mount is stuck;
what it shows is read without locks from plain values.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import waitress

log = logging.getLogger(__name__)

Status = dict[str, Any]


class ControlServer:
    """Args:
    path: of the socket; only its owner may connect.
    status: makes the document of `GET /status`; called on a thread of the server.
    """

    def __init__(self, path: Path, status: Callable[[], Status]) -> None:
        self._path = path
        self._status = status
        self._server = waitress.create_server(
            self._answer, unix_socket=str(path), unix_socket_perms="600", threads=2, ident="lazysif"
        )
        self._thread = threading.Thread(target=self._server.run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._server.close()
        self._path.unlink(missing_ok=True)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain")])
            return [b"only GET\n"]
        match environ.get("PATH_INFO", ""):
            case "/status":
                start_response("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(self._status()).encode()]
            case "/metrics":
                from lazysif.control.metrics import CONTENT_TYPE, render  # 45 ms that only a scrape pays

                start_response("200 OK", [("Content-Type", CONTENT_TYPE)])
                return [render(self._status())]
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"there are /status and /metrics\n"]
