"""Static registries (singularityhub/registry): pages of JSON on a plain web server, that name files on any host.

`BASE/collection/name/manifests/tag/` has the address and digest of an image, `BASE/collection/name/tags/` its tags,
and the start page of the template links to all `collection/name`. Sizes there are kilobytes or written by hand, so
they are not believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from lazysif.core.digests import whole_file_digest
from lazysif.core.index_page import LARGEST_PAGE
from lazysif.core.locations import signed_until_s
from lazysif.core.names import is_name, join_url, origin_of
from lazysif.core.references import Reference
from lazysif.errors import LazysifError, NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, EntryKind, Image, Location, Transport
from lazysif.registries.collection_names import Resolved, reference_of, surely_an_image
from lazysif.registries.json_answer import get, get_json
from lazysif.registries.shub import image_address

_MOST_NAMES = 100
"""Of a collection that is listed: each costs a request for its tags."""
_TAG = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.]{0,127}")


class StaticRegistry:
    """Args: base_url: of the start page."""

    def __init__(self, base_url: str, transport: Transport) -> None:
        self._base_url = base_url
        self._transport = transport
        self._resolved = Resolved()

    async def locate(self, path: str) -> Location | None:
        """Read the manifest. Raises: NoSuchEntry, AccessDenied, SourceError."""
        reference = reference_of(path)
        if reference is None:
            return None
        known = self._resolved.get(reference)
        return known if known is not None else await self._ask(reference)

    async def renew(self, image: Image) -> Location:
        """Read the manifest again: it may name another address of the same digest."""
        reference = reference_of(image.path)
        if reference is None:
            raise NoSuchEntry("a collection is no image", certain=True)
        return await self._ask(reference)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Collections, or the tags of a collection's images, as the start page links to them."""
        if path.count("/"):
            return None
        names = await self._linked_names()
        if names is None:
            return None
        if not path:
            collections = sorted({collection for collection, _ in names})
            return tuple(DirectoryEntry(collection, EntryKind.DIRECTORY) for collection in collections)
        below = [name for collection, name in names if collection == path]
        if len(below) > _MOST_NAMES:
            return None
        return tuple(
            [
                DirectoryEntry(f"{name}:{tag}.sif", EntryKind.FILE)
                for name in below
                for tag in await self._tags(f"{path}/{name}")
            ]
        )

    async def _ask(self, reference: Reference) -> Location:
        url = join_url(self._base_url, f"{reference.repository}/manifests/{reference.tag}/")
        with surely_an_image():
            manifest = await get_json(self._transport, url)
        layer = _only_layer(manifest, url)
        urls = layer.get("urls")
        address = image_address(urls[0] if isinstance(urls, list) and urls else None, url)
        digest = whole_file_digest(layer.get("digest"))
        wanted = whole_file_digest(reference.digest)
        if reference.digest and (wanted is None or wanted != digest):
            raise NoSuchEntry("the manifest names another digest", origin=origin_of(url), certain=True)
        shown = f"{reference.repository}@{digest.value}" if digest else f"{reference}"
        location = Location(
            address,
            origin_of(join_url(self._base_url, shown)),
            validator=digest,
            expires_at_s=signed_until_s(address),
        )
        return self._resolved.keep(reference, location)

    async def _linked_names(self) -> Sequence[tuple[str, str]] | None:
        """The (collection, name) pairs of the start page; None where it is no start page of the template."""
        url = join_url(self._base_url, "")
        try:
            page = (await get(self._transport, url, longest=LARGEST_PAGE)).body
        except NoSuchEntry:
            return None
        names = linked_names(page.decode(errors="replace"), url)
        return names or None

    async def _tags(self, repository: str) -> Sequence[str]:
        try:
            found = await get_json(self._transport, join_url(self._base_url, f"{repository}/tags/"))
        except NoSuchEntry:
            return []
        return _tags_of(found)


def _tags_of(found: Any) -> list[str]:
    tags = found.get("tags") if isinstance(found, dict) else None
    # the template counts a README between the manifests as a tag
    return [
        tag
        for tag in (tags if isinstance(tags, list) else [])
        if isinstance(tag, str) and _TAG.fullmatch(tag) and tag != "README.md"
    ]


def _only_layer(manifest: Any, url: str) -> dict[str, Any]:
    """The manifest's layer. Raises: SourceProtocolError: none, or several."""
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    if not isinstance(layers, list) or len(layers) != 1 or not isinstance(layers[0], dict):
        raise SourceProtocolError("the manifest does not name one file", origin=origin_of(url))
    return layers[0]


def linked_names(page: str, url: str) -> list[tuple[str, str]]:
    """The (collection, name) pairs that a start page links to, each once."""
    links = _Links()
    links.feed(page)
    base = urlsplit(url)
    found: dict[tuple[str, str], None] = {}
    for link in links.found:
        try:
            parts = urlsplit(urljoin(url, link))
        except ValueError:
            continue
        if parts.netloc != base.netloc or not parts.path.startswith(base.path):
            continue
        names = [unquote(name) for name in parts.path[len(base.path) :].strip("/").split("/")]
        if len(names) == 2 and all(is_name(name) for name in names) and _is_reference("/".join(names)):
            found[names[0], names[1]] = None
    return list(found)


def _is_reference(path: str) -> bool:
    try:
        reference = reference_of(path)
    except LazysifError:
        return False
    return reference is not None and reference.repository == path


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
