"""OpenStack Swift: a name is `container/object` below the account, whose address a login tells.

The login is an ordinary request of the transport to the identity service; credentials are added there
(`transport.swift_auth`), and only the address of the account is read here. Large objects (static and dynamic) are
read as one: Swift's ETag of both is the hash of their segments' hashes, and Swift breaks an answer off when a segment
is not the one that its ETag counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import trio

from lazysif.core.names import is_name, join_url, origin_of
from lazysif.core.swift import PAGE, listing_url, merged, parse_page, storage_url
from lazysif.errors import AccessDenied, FormatError, NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, Image, Location, Transport
from lazysif.registries.json_answer import Said, get, get_json

log = logging.getLogger(__name__)

HINT = "check the remote's credentials (username, password_file, project, application_credential_id)"
_MOST_PAGES = 20
_LONGEST_PAGE = 16 << 20
"""Bytes: names may have 1024, each line some 200 more."""
_REFUSED_S = 60.0
"""A login that was refused is not repeated for so long: identity services lock accounts after some tries."""


class SwiftAccount:
    """The address of the account; from the configuration, or told by the first login.

    Args:
        storage_url: "" asks `login_url`.
        login_url: what the credentials make a login of; its answer names the account.
        opened: told the address, so that the token goes there.
    """

    def __init__(
        self,
        *,
        storage_url: str = "",
        login_url: str = "",
        region: str = "",
        interface: str = "public",
        opened: Callable[[str], None] = lambda url: None,
    ) -> None:
        self._url = storage_url
        self._login_url = login_url
        self._region = region
        self._interface = interface
        self._opened = opened
        self._lock = trio.Lock()
        self._refused_until = float("-inf")
        self._refusal = ""

    async def url(self, transport: Transport) -> str:
        """Raises: AccessDenied, SourceError: the login fails."""
        if self._url:
            return self._url
        async with self._lock:
            if not self._url:
                self._url = await self._login(transport)
                self._opened(self._url)
        return self._url

    async def _login(self, transport: Transport) -> str:
        if time.monotonic() < self._refused_until:
            raise self._denied()
        try:
            said = await get(transport, self._login_url)
        except (AccessDenied, NoSuchEntry) as error:
            self._refused_until = time.monotonic() + _REFUSED_S
            self._refusal = error.why
            raise self._denied() from None
        url = self._told(said)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SourceProtocolError("the login names no address of the object store", origin=said.head.url)
        if self._login_url.startswith("https://") and parts.scheme == "http":
            raise SourceProtocolError(
                "the login leads from HTTPS to plain HTTP",
                origin=said.head.url,
                hint="write the object store's HTTPS address as storage_url",
            )
        return url

    def _denied(self) -> AccessDenied:
        origin = origin_of(self._login_url)
        return AccessDenied(
            f"the login failed: {self._refusal}", origin=origin, hint=HINT, asks_credentials=True
        )

    def _told(self, said: Said) -> str:
        """The account's address: a header of v1, an entry of the catalog of v3."""
        if "x-storage-url" in said.head.headers:
            return said.head.headers["x-storage-url"]
        try:
            return storage_url(said.json(), region=self._region, interface=self._interface)
        except FormatError as error:
            raise SourceProtocolError(error.why, origin=said.head.url) from None


class SwiftRegistry:
    """Args:
    account: where the containers are.
    container: of all names, "" where a name begins with its own.
    prefix: put before all names of the container, without "/" at its ends.
    """

    def __init__(
        self, account: SwiftAccount, transport: Transport, container: str = "", prefix: str = ""
    ) -> None:
        self._account = account
        self._transport = transport
        self._base = "/".join(filter(None, (container, prefix)))

    async def locate(self, path: str) -> Location | None:
        """The object's URL; after the login nothing is asked. Raises: NoSuchEntry, AccessDenied, SourceError."""
        whole = self._whole(path)
        if "/" not in whole:
            if whole.startswith("."):
                # what shells and git look for in every directory; segments of some clients, but no images, lie there
                raise NoSuchEntry("no image can have that name", certain=True)
            return None  # a container
        url = join_url(await self._account.url(self._transport), whole)
        return Location(url, origin_of(url))

    async def renew(self, image: Image) -> Location:
        """As `locate`: tokens are renewed where they are added, and conditions tell versions apart."""
        location = await self.locate(image.path)
        if location is None:
            raise NoSuchEntry("a container is no image")
        return location

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Objects and their common prefixes, or the account's containers; None where it may not be listed, or where
        there are too many."""
        container, _, below = self._whole(path).partition("/")
        prefix = below + "/" if below else ""
        base_url = await self._account.url(self._transport)
        entries: list[DirectoryEntry] = []
        marker = ""
        for _ in range(_MOST_PAGES):
            url = listing_url(base_url, container, prefix, marker)
            try:
                found = await get_json(self._transport, url, longest=_LONGEST_PAGE)
                page = parse_page(found, prefix, of_account=not container)
            except (NoSuchEntry, AccessDenied):
                return None
            except FormatError as error:
                raise SourceProtocolError(error.why, origin=origin_of(url)) from None
            entries += page.entries
            if not page.marker:
                return merged(entries)
            marker = page.marker
        # a part of a listing would say that names are missing; without one, names are found one by one
        log.warning("%s has more than %d names and is not listed", origin_of(base_url), _MOST_PAGES * PAGE)
        return None

    def _whole(self, path: str) -> str:
        whole = "/".join(filter(None, (self._base, path)))
        if whole and not all(is_name(name) for name in whole.split("/")):
            raise NoSuchEntry("no image can have that name")
        return whole
