"""Singularity Registry Server: its library API where it has one, else its own download page.

The library API (`v1/images`, `v1/imagefile`: 302 to a signed address in object storage, which answers ranges) is that
of servers since 1.1.22. Their own API names a page that sends the file whole, without ranges, and counts each GET
against a weekly limit (`shub/apps/main/views/download.py`): it is asked once (`Location.once`). Its path holds the
collection's secret and is never shown. Error bodies there are bare numbers, with status 200.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from lazysif.core.digests import whole_file_digest
from lazysif.core.locations import signed_until_s
from lazysif.core.names import join_url, origin_of
from lazysif.core.references import Reference
from lazysif.errors import (
    AccessDenied,
    LazysifError,
    NoSuchEntry,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.model import DirectoryEntry, EntryKind, Image, Location, Transport, Validator, ValidatorKind
from lazysif.registries.collection_names import Resolved, reference_of, surely_an_image
from lazysif.registries.json_answer import Said, get
from lazysif.registries.shub import image_address

HINT = "check the credentials (username, token_file): private collections are for their members"
_ASKED_AGAIN_S = 3600.0
"""How long a server that has been seen to speak only its own API is not asked for the other."""
_UNSPOKEN = (400, 404, 405, 500)
"""What a server without the library API answers to it. One that has it says 404 for what is not there, and 500 for a
private collection and a token that it does not know."""
_MOST_PAGES = 20


class SregistryRegistry:
    """Args: base_url: of the server, as its pages have it."""

    def __init__(self, base_url: str, transport: Transport) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/api")
        self._transport = transport
        self._resolved = Resolved()
        self._speaks_library = False
        self._own_until = float("-inf")

    async def locate(self, path: str) -> Location | None:
        """Ask the server. Raises: NoSuchEntry, AccessDenied, SourceError."""
        reference = _lower(reference_of(path))
        if reference is None:
            return None
        known = self._resolved.get(reference)
        return known if known is not None else await self._ask(reference)

    async def renew(self, image: Image) -> Location:
        """Ask again: the secret of a download page may have changed."""
        reference = _lower(reference_of(image.path))
        if reference is None:
            raise NoSuchEntry("a collection is no image", certain=True)
        return await self._ask(reference)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Public collections, or the images of one."""
        if not path:
            return await self._collections()
        if "/" in path:
            return None
        said = await self._said(f"api/collection/{path.lower()}", also=_UNSPOKEN)
        found = said.json() if said.head.status == 200 else None
        containers = found.get("containers") if isinstance(found, dict) else None
        return None if containers is None else tuple(_images(containers))

    async def _collections(self) -> tuple[DirectoryEntry, ...] | None:
        names: dict[str, None] = {}
        for page in range(1, _MOST_PAGES + 1):
            said = await self._said("api/collections/", query=f"?page={page}", also=_UNSPOKEN)
            found = said.json() if said.head.status == 200 else None
            if not isinstance(found, dict) or not isinstance(found.get("results"), list):
                return None
            for collection in found["results"]:
                name = collection.get("name") if isinstance(collection, dict) else None
                if isinstance(name, str) and _is_collection(name):
                    names[name] = None
            if not found.get("next"):
                return tuple(DirectoryEntry(name, EntryKind.DIRECTORY) for name in names)
        return None

    async def _ask(self, reference: Reference) -> Location:
        status = 404
        if trio.current_time() >= self._own_until:
            found = await self._ask_library(reference)
            if isinstance(found, Location):
                self._speaks_library = True
                return self._resolved.keep(reference, found)
            status = found
        if self._speaks_library and status != 500:
            raise self._missing(reference)
        location = await self._ask_own(reference)
        if self._speaks_library:
            raise SourceUnavailable(f"the registry answered {status}", origin=location.origin)
        self._own_until = trio.current_time() + _ASKED_AGAIN_S
        return self._resolved.keep(reference, location)

    async def _ask_library(self, reference: Reference) -> Location | int:
        """The image by the library API; the status where the server does not speak it or does not have the image."""
        said = await self._said(
            f"v1/images/{reference.repository}{_suffix(reference)}", query="?arch=amd64", also=_UNSPOKEN
        )
        if said.head.status != 200:
            return said.head.status
        try:
            found = said.json()
        except SourceProtocolError:
            return 404  # a page for people
        data = found.get("data") if isinstance(found, dict) else None
        if not isinstance(data, dict) or "hash" not in data:
            return 404
        digest = whole_file_digest(data["hash"])
        _check_version(reference, digest)
        # by version where there is one: the address then means the same file for good
        version = f":{data['hash']}" if digest and digest.value.startswith("sha256:") else _suffix(reference)
        url = join_url(self._base_url, f"v1/imagefile/{reference.repository}{version}") + "?arch=amd64"
        return Location(url, self._origin(reference, digest), validator=digest)

    async def _ask_own(self, reference: Reference) -> Location:
        said = await self._said(f"api/container/{reference}")
        found = said.json()
        if isinstance(found, int):
            raise _own_error(found)
        if not isinstance(found, dict):
            raise SourceProtocolError("the registry's answer is no description of an image")
        version = found.get("version")
        digest = whole_file_digest(version)
        _check_version(reference, digest)
        if digest is None and isinstance(version, str) and version:
            # whatever it is, it tells without a GET of the file that nothing has changed
            validator: Validator | None = Validator(ValidatorKind.GENERATION, f"{found.get('id')} {version}")
        else:
            validator = digest
        address = image_address(found.get("image"), said.head.url)
        return Location(
            address,
            self._origin(reference, digest),
            validator=validator,
            expires_at_s=signed_until_s(address),
            once=True,
        )

    async def _said(self, path: str, *, query: str = "", also: Sequence[int] = ()) -> Said:
        url = join_url(self._base_url, path) + query
        with surely_an_image():
            return await get(self._transport, url, also=also, hint=HINT)

    def _missing(self, reference: Reference) -> LazysifError:
        origin = origin_of(join_url(self._base_url, f"v1/images/{reference}"))
        return NoSuchEntry(
            "the registry does not have it, or does not show it", origin=origin, hint=HINT, certain=True
        )

    def _origin(self, reference: Reference, digest: Validator | None) -> str:
        """Never the download page's address: it holds the collection's secret."""
        shown = f"{reference.repository}@{digest.value}" if digest else f"{reference}"
        return origin_of(join_url(self._base_url, f"api/container/{shown}"))


def _lower(reference: Reference | None) -> Reference | None:
    """Names are lower case there, as the server and its client make them (`parse_image_name`)."""
    if reference is None:
        return None
    return Reference(reference.repository.lower(), reference.tag.lower(), reference.digest.lower())


def _suffix(reference: Reference) -> str:
    digest = whole_file_digest(reference.digest)
    if digest is not None and digest.value.startswith("sha256:"):
        return ":" + digest.value.replace(":", ".")
    return f"@{reference.digest}" if reference.digest else f":{reference.tag}"


def _check_version(reference: Reference, digest: Validator | None) -> None:
    """The server's own API looks at the tag alone. Raises: NoSuchEntry."""
    if reference.digest and (digest is None or whole_file_digest(reference.digest) != digest):
        raise NoSuchEntry("the registry has another version under that name", certain=True)


def _own_error(number: int) -> LazysifError:
    if number == 429:
        return SourceProtocolError(
            "the registry's limit of downloads for this week is reached (429)",
            hint="its administrator can raise it",
        )
    return AccessDenied(
        f"the registry does not take the credentials ({number})", hint=HINT, asks_credentials=True
    )


def _is_collection(name: str) -> bool:
    try:
        return reference_of(name) is None
    except NoSuchEntry:
        return False


def _images(containers: Any) -> Sequence[DirectoryEntry]:
    entries = []
    for container in containers if isinstance(containers, list) else []:
        name, tag = (
            (container.get(key) for key in ("name", "tag")) if isinstance(container, dict) else ("", "")
        )
        try:
            reference = reference_of(f"any/{name}:{tag}")
        except NoSuchEntry:
            continue
        # a push that is under way has a tag of its own
        if reference is not None and not reference.tag.startswith("DUMMY-"):
            entries.append(DirectoryEntry(f"{name}:{tag}.sif", EntryKind.FILE))
    return entries
