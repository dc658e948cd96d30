"""Credentials of a remote as `httpx.Auth`; secrets live here and in the files they were read from, nowhere else."""

from __future__ import annotations

from collections.abc import Generator

import httpx


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
