"""Plain web servers: a name is the URL below the remote's, and a listing is the server's own index page."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal
from urllib.parse import unquote, urlsplit

import trio

from lazysif.core import index_page
from lazysif.core.content_range import refusal
from lazysif.core.names import join_url, origin_of
from lazysif.errors import FormatError, NoSuchEntry, SourceProtocolError
from lazysif.model import Answer, AnswerHead, DirectoryEntry, Image, Location, Request, Transport

# Caddy gives JSON to whoever asks for it; nginx and Apache do not look at it. Always the same words, so that
# a proxy can serve two nodes with one answer.
_ACCEPT = "application/json, text/html;q=0.9"
_INDEX_KINDS = ("text/html", "application/xhtml+xml", "application/json")
# A page of 100,000 names takes about a second to parse, and the trio thread answers the kernel meanwhile.
_PARSED_AT_ONCE = 32 * 1024


class HttpRegistry:
    """A directory tree on a web server. Does not cache.

    Args:
        base_url: the remote's own directory; a query (a signature) is kept at the end of every URL.
        transport: sends with the remote's credentials.
        listing: "auto" believes index pages, "off" asks for none.
    """

    def __init__(self, base_url: str, transport: Transport, listing: Literal["auto", "off"] = "auto") -> None:
        self._base_url = base_url
        self._transport = transport
        self._listing = listing

    async def locate(self, path: str) -> Location:
        """The URL of `path`; nothing is asked. Raises: NoSuchEntry for what cannot be a path of names."""
        url = self._url(path)
        return Location(url, origin_of(url))

    async def renew(self, image: Image) -> Location:
        """As `locate`: the URL is the name's own, and conditions tell versions apart."""
        return await self.locate(image.path)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Entries of the directory `path`; None where the origin gives no index page.

        Raises:
            NoSuchEntry: what cannot be a path of names.
            SourceUnavailable: 408, 425, 429, 5xx, and what the transport raises.
            SourceProtocolError: 501, 505, or an index page that is too long or compressed unasked.
        """
        if self._listing == "off":
            return None
        url = self._url(path + "/" if path else "")
        request = Request(url, {"Accept": _ACCEPT})
        async with self._transport.send(request) as answer:
            if not _may_be_index(answer.head, url):
                return None
            body = await _read(answer)
        try:
            if len(body) <= _PARSED_AT_ONCE:
                return _entries(body, answer.head)
            return await trio.to_thread.run_sync(_entries, body, answer.head)
        except FormatError as error:
            raise SourceProtocolError(error.why, origin=origin_of(url)) from error

    def _url(self, path: str) -> str:
        try:
            return join_url(self._base_url, path)
        except ValueError:
            raise NoSuchEntry("no image can have that name", origin=origin_of(self._base_url)) from None


def _may_be_index(head: AnswerHead, url: str) -> bool:
    """Whether the body is worth reading. Raises: SourceError where the origin cannot say."""
    if head.status in (408, 425, 429) or head.status >= 500:
        error = refusal(head)
        error.about(origin=origin_of(url))
        raise error
    # 401, 403, 404 and the like are answers: names are found one by one. A redirect to another path leads to
    # a login or start page; one to another host or scheme with the same path is a mirror.
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    return head.status == 200 and kind in _INDEX_KINDS and _path(head.url) == _path(url)


def _path(url: str) -> str:
    return unquote(urlsplit(url).path)


async def _read(answer: Answer) -> bytes:
    """The whole body. Raises: SourceProtocolError, and what the transport raises."""
    origin = origin_of(answer.head.url)
    if answer.head.headers.get("content-encoding", "identity").lower() != "identity":
        raise SourceProtocolError("the index page is compressed, which was not asked for", origin=origin)
    body = bytearray()
    chunks = answer.chunks()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > index_page.LARGEST_PAGE:
                raise SourceProtocolError("the index page is longer than 16 MiB", origin=origin)
    finally:
        # A generator left half-way would be closed by the garbage collector, where trio cannot wait for it.
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
    return bytes(body)


def _entries(body: bytes, head: AnswerHead) -> tuple[DirectoryEntry, ...] | None:
    # Links are ASCII or UTF-8, whatever the page says (Apache: ISO-8859-1); other bytes make no names.
    text = body.decode(errors="surrogateescape")
    if not index_page.looks_like_index(head.headers.get("content-type", ""), text):
        return None
    return index_page.parse_index(text, head.url)
