"""Credentials of a Singularity Registry Server: a bearer token for its library API, a signature for its own.

The signature is that of its client (sregistry/main/registry/auth.py): HMAC-SHA256 with the user's token over
`pull|collection|hour|name|tag|`, so it holds until the hour ends.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Generator
from datetime import UTC, datetime
from urllib.parse import unquote

import httpx

from lazysif.core.references import parse_reference

_OWN = "/api/container/"


class SregistryAuth(httpx.Auth):
    """Args: base_path: of the server's URL, "" or "/registry"; username: "" has no signatures made."""

    def __init__(self, base_path: str, token: str, username: str = "") -> None:
        self._base_path = base_path.rstrip("/")
        self._token = token
        self._username = username

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        path = unquote(request.url.path).removeprefix(self._base_path)
        if path.startswith("/v1/"):
            request.headers["Authorization"] = f"Bearer {self._token}"
        elif path.startswith(_OWN) and self._username:
            request.headers["Authorization"] = self._signature(path.removeprefix(_OWN), datetime.now(UTC))
        yield request

    def _signature(self, name: str, now: datetime) -> str:
        reference = parse_reference(name, whole=True)
        assert reference is not None
        hour = now.strftime("%Y%m%dT%HZ")
        collection, _, repository = reference.repository.partition("/")
        signed = f"pull|{collection}|{hour}|{repository}|{reference.tag}|"
        signature = hmac.new(self._token.encode(), signed.encode(), hashlib.sha256).hexdigest()
        user = base64.b64encode(self._username.encode()).decode()
        return f"SREGISTRY-HMAC-SHA256 Credential=pull/{user}/{hour},Signature={signature}"
