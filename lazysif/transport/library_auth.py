"""Tokens of a library: its own, and those that it hands out for one image's blobs in an OCI registry."""

from __future__ import annotations

from collections import OrderedDict
from urllib.parse import urlsplit

import httpx

from lazysif.core.names import same_origin
from lazysif.transport.credentials import BearerAuth

_MAX_GRANTS = 1000


class LibraryKeyring:
    """Args:
    url: what the configuration names: a library, or an endpoint that says where its library is.
    token: of the remote's user; None for none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._apis = [url]
        self._auth = BearerAuth(token) if token is not None else None
        self._grants: OrderedDict[str, BearerAuth] = OrderedDict()

    def for_url(self, url: str) -> httpx.Auth | None:
        """See `Keyring`."""
        for below, auth in self._grants.items():
            if same_origin(url, below) and urlsplit(url).path.startswith(urlsplit(below).path):
                return auth
        return self._auth if any(same_origin(url, api) for api in self._apis) else None

    def trust(self, url: str) -> None:
        """The endpoint has named this as its library."""
        if url not in self._apis:
            self._apis = [self._apis[0], url]

    def grant(self, below: str, token: str) -> None:
        """The library has given a token for what lies below this URL; it takes the place of an older one."""
        self._grants[below] = BearerAuth(token)
        self._grants.move_to_end(below)
        while len(self._grants) > _MAX_GRANTS:
            self._grants.popitem(last=False)
