"""Asks daemons over their control sockets; touches no mount."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_TIMEOUT_S = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Refused(Exception):
    """The daemon does not do what a verb asked for; the text says why."""


def fetch(path: Path, target: str, method: str = "GET") -> bytes:
    """Ask the daemon at this socket for `target`.

    Raises:
        Refused: it refuses the verb.
        OSError: nobody listens there, no answer in 5 s, or a daemon that does not know `target`.
    """
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"not a lazysif control socket: {error}") from error
    finally:
        connection.close()
    if answer.status == 409:
        raise Refused(json.loads(body)["error"])
    if answer.status != 200:
        raise OSError(f"the daemon answered {answer.status}")
    return body


def fetch_status(path: Path) -> dict[str, Any]:
    """The status document. Raises: OSError."""
    return fetch_document(path, "/status")


def fetch_document(path: Path, target: str, method: str = "GET") -> dict[str, Any]:
    """A document. Raises: Refused, OSError."""
    try:
        document = json.loads(fetch(path, target, method))
    except ValueError as error:
        raise OSError(f"not a document: {error}") from error
    if not isinstance(document, dict):
        raise OSError("not a document")
    return document
