"""Credentials of a remote as `httpx.Auth`; secrets live here and in the files they were read from, nowhere else.

A keyring says which credentials a URL may see: each hop of a redirect asks it anew.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import httpx

from lazysif.core.names import same_origin


class Keyring(Protocol):
    """Which credentials go where."""

    def for_url(self, url: str) -> httpx.Auth | None:
        """The credentials that the host behind `url` may see; None for all others."""
        ...


class OriginKeyring:
    """One credential for one origin (scheme, host and port); None for every other."""

    def __init__(self, base_url: str, auth: httpx.Auth | None) -> None:
        self._base_url = base_url
        self._auth = auth

    def for_url(self, url: str) -> httpx.Auth | None:
        """See `Keyring`."""
        return self._auth if same_origin(url, self._base_url) else None


class BearerAuth(httpx.Auth):
    """`Authorization: Bearer` (RFC 6750 section 2.1)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def make_auth(
    *, username: str | None = None, password: str = "", token: str | None = None
) -> httpx.Auth | None:
    """Basic credentials, a bearer token, or None for an anonymous remote."""
    if token is not None:
        return BearerAuth(token)
    if username is not None:
        return httpx.BasicAuth(username, password)
    return None
