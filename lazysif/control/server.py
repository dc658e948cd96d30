"""The control socket: status as JSON, Prometheus metrics and verbs, over HTTP on a Unix socket.

waitress serves it from threads of its own, so that it answers while the trio thread is busy or the mount is stuck;
what it shows is read without locks from plain values.

A GET shows something, a POST is a verb that changes something, and both answer at once. Who may: the daemon's user
and root, and nobody else. waitress does not show whose connection it is (SO_PEERCRED), so the file system is the
check: the socket has mode 0600 and lies in a directory of mode 0700 (`address.make_runtime_directory`). Anything
that listens elsewhere must offer no verbs.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import waitress

from lazysif.errors import LazysifError

log = logging.getLogger(__name__)

_LAST_ANSWERS_S = 0.5
_JSON, _TEXT = "application/json", "text/plain"
Status = dict[str, Any]
Verb = Callable[[Mapping[str, str]], Status]
"""Gets the query's parameters and answers with a document; raises `LazysifError` where it refuses (409)."""


class ControlServer:
    """Args:
    path: of the socket; only its owner may connect.
    status: makes the document of `GET /status`; called on a thread of the server, as are the others.
    views: documents of further GETs, by path.
    verbs: what a POST does, by path.
    """

    def __init__(
        self,
        path: Path,
        status: Callable[[], Status],
        views: Mapping[str, Callable[[], Status]] | None = None,
        verbs: Mapping[str, Verb] | None = None,
    ) -> None:
        self._path = path
        self._status = status
        self._views = {"/status": status, **(views or {})}
        self._verbs = dict(verbs or {})
        self._server = waitress.create_server(
            self._answer,
            unix_socket=str(path),
            unix_socket_perms="600",
            threads=2,
            ident="lazysif",
            asyncore_use_poll=True,  # select(2) takes no descriptor above 1023, which a busy daemon has
        )
        self._thread = threading.Thread(target=self._server.run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish the answers under way, stop listening and remove the socket.

        In that order, and each on the thread that uses it: a thread that has answered wakes waitress by a byte to a
        descriptor, and waitress waits for descriptors, that may be another file's once they are closed.
        """
        self._server.task_dispatcher.shutdown(timeout=_LAST_ANSWERS_S)
        closed = threading.Event()

        def close() -> None:
            self._server.close()
            closed.set()

        if self._thread.is_alive():
            trigger = self._server.trigger
            with trigger.lock:  # its thread runs no thunk before our byte is written, whoever woke it
                trigger.thunks.append(close)
                trigger.pull_trigger()
            closed.wait(_LAST_ANSWERS_S)
        else:
            close()
        self._path.unlink(missing_ok=True)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        status, kind, body = self._respond(
            environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        )
        start_response(status, [("Content-Type", kind)])
        return [body]

    def _respond(self, method: str, path: str, query: str) -> tuple[str, str, bytes]:
        """Status line, content type and body."""
        if method == "GET" and path in self._views:
            return "200 OK", _JSON, json.dumps(self._views[path]()).encode()
        if method == "GET" and path == "/metrics":
            from lazysif.control.metrics import CONTENT_TYPE, render  # 45 ms that only a scrape pays

            return "200 OK", CONTENT_TYPE, render(self._status())
        if method == "POST" and path in self._verbs:
            try:
                return "200 OK", _JSON, json.dumps(self._verbs[path](dict(parse_qsl(query)))).encode()
            except LazysifError as error:
                return "409 Conflict", _JSON, json.dumps({"error": error.why, "hint": error.hint}).encode()
        if method not in ("GET", "POST"):
            return "405 Method Not Allowed", _TEXT, b"only GET and POST\n"
        gets, posts = sorted([*self._views, "/metrics"]), sorted(self._verbs)
        said = f"there are GET {', '.join(gets)}" + (f"; POST {', '.join(posts)}" if posts else "")
        return "404 Not Found", _TEXT, f"{said}\n".encode()
