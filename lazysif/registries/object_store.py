"""Buckets of object stores: a name is a key, and a directory is what keys have in common up to a slash."""

from __future__ import annotations

from typing import Protocol

import trio

from lazysif.core.index_page import MOST_ENTRIES
from lazysif.core.names import has_image_suffix, origin_of
from lazysif.core.object_listing import ListingPage
from lazysif.errors import AccessDenied, FormatError, NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, Image, Location, Transport

_PAGE = 1000
_NOT_ALLOWED_S = 300.0
"""Who may not list is not asked again for so long."""


class Store(Protocol):
    """What one kind of store has of its own."""

    def location(self, path: str) -> Location:
        """Raises: ValueError: no path of names."""
        ...

    def listing_url(self, directory: str, token: str, most: int) -> str:
        """Raises: ValueError."""
        ...

    async def page(self, transport: Transport, directory: str, url: str) -> ListingPage:
        """Raises: FormatError, AccessDenied, NoSuchEntry, SourceError."""
        ...


class ObjectRegistry:
    """Keys below the prefix of a bucket. Does not cache.

    Args:
        store: its URLs and answers.
        transport: sends with the remote's credentials.
        listing: False asks for no listings.
    """

    def __init__(self, store: Store, transport: Transport, *, listing: bool = True) -> None:
        self._store = store
        self._transport = transport
        self._listing = listing
        self._allowed_at = float("-inf")

    async def locate(self, path: str) -> Location | None:
        """The URL of the key; None where keys lie below it.

        A name that does not look like an image is asked for as a directory first: one small answer, where the
        probe of a missing key and a listing of its parent would be two, the second perhaps a large one.

        Raises: NoSuchEntry, AccessDenied, SourceError.
        """
        if not path:
            return None
        location = self._location(path)
        if not has_image_suffix(path) and await self._has_keys_below(path):
            return None
        return location

    async def renew(self, image: Image) -> Location:
        """As `locate`: the URL is the key's own, and each request brings its credentials."""
        return self._location(image.path)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Keys and common prefixes of a directory; None where they may not be listed.

        Raises:
            NoSuchEntry: what cannot be a path of names, or a bucket that is not there.
            SourceError: the store cannot say, or lists more than 100,000 names.
        """
        entries: dict[str, DirectoryEntry] = {}
        token = ""
        while True:
            page = await self._page(path, token, _PAGE)
            if page is None:
                return None
            for entry in page.entries:
                entries.setdefault(entry.name, entry)
            if len(entries) > MOST_ENTRIES:
                raise SourceProtocolError(f"the directory has more than {MOST_ENTRIES} names")
            if page.token in ("", token):
                return tuple(entries.values())
            token = page.token

    async def _has_keys_below(self, path: str) -> bool:
        page = await self._page(path, "", 1)
        return page is not None and bool(page.entries)

    async def _page(self, path: str, token: str, most: int) -> ListingPage | None:
        """One page of a listing; None where there may be none."""
        if not self._listing or trio.current_time() < self._allowed_at:
            return None
        try:
            url = self._store.listing_url(path, token, most)
        except ValueError:
            raise _no_name() from None
        try:
            return await self._store.page(self._transport, path, url)
        except FormatError as error:
            raise SourceProtocolError(error.why, origin=origin_of(url)) from error
        except AccessDenied as error:
            if error.asks_credentials:
                raise
            self._allowed_at = trio.current_time() + _NOT_ALLOWED_S
            return None

    def _location(self, path: str) -> Location:
        try:
            return self._store.location(path)
        except ValueError:
            raise _no_name() from None


def _no_name() -> NoSuchEntry:
    return NoSuchEntry("no image can have that name")
