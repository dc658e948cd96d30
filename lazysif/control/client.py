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


def fetch(path: Path, target: str) -> bytes:
    """GET `target` of the daemon at this socket.

    Raises:
        OSError: nobody listens there, or no answer in 5 s.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"not a lazysif control socket: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"the daemon answered {answer.status}")
    return body


def fetch_status(path: Path) -> dict[str, Any]:
    """The status document. Raises: OSError."""
    try:
        document = json.loads(fetch(path, "/status"))
    except ValueError as error:
        raise OSError(f"not a status document: {error}") from error
    if not isinstance(document, dict):
        raise OSError("not a status document")
    return document
