"""Sylabs' library and its kin (`library://`): `v1/images` says the digest, and two ways lead to the bytes.

Newer servers hand out a token for an OCI registry (`v1/oci-redirect`): the blob has the image's digest, as every
client checks after its download, so that no manifest need be read. Others redirect `v1/imagefile` to a signed URL,
which the transport keeps while it holds. Where the server takes an image's hash for a tag, the URL names the hash:
it then means the same file for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import trio

from lazysif.core.content_range import refusal
from lazysif.core.digests import whole_file_digest
from lazysif.core.library_names import (
    DEPTH,
    api_name,
    container_of,
    hash_of,
    is_hash,
    is_part,
    parse_library_name,
)
from lazysif.core.names import is_name, join_url, origin_of
from lazysif.core.references import Reference
from lazysif.errors import AccessDenied, NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, EntryKind, Image, Location, Transport, Validator, ValidatorKind
from lazysif.registries.collection_names import Resolved, surely_an_image
from lazysif.registries.json_answer import Said, get
from lazysif.registries.quiet import Quiet

HINT = "set token_file of its remote"
_ENDPOINT_FILE = "assets/config/config.prod.json"
_REFUSED = (401, 403)
_NOT_SPOKEN = (400, 404, 405, 406, 410, 501)
"""What a server answers to a request that it does not know."""
_ASKED_AGAIN_S = 3600.0
"""How long a server that hands out no OCI tokens is not asked for one."""


class Grants(Protocol):
    """What is learned about credentials on the way; `transport.library_auth.LibraryKeyring`."""

    def trust(self, url: str) -> None:
        """The endpoint has named this as its library."""
        ...

    def grant(self, below: str, token: str) -> None:
        """The library has given a token for what lies below this URL."""
        ...


class LibraryRegistry:
    """Names are `entity/collection/name[:tag][.sif]`, shorter where the server fills in, or `sha256.<hex>.sif`.

    Args:
        url: of the library, or of an endpoint that says where its library is.
        grants: told which tokens go where.
        architecture: of this node, as Go calls it.
        listing: whether the library is asked what it has.
    """

    def __init__(
        self, url: str, transport: Transport, grants: Grants, *, architecture: str, listing: bool = True
    ) -> None:
        self._url = url
        self._transport = transport
        self._grants = grants
        self._architecture = architecture
        self._listing = listing
        self._api: str | None = None
        self._finding = trio.Lock()
        self._no_oci_until = float("-inf")
        self._takes_hashes: bool | None = None
        self._resolved = Resolved()
        self._quiet = Quiet()

    async def locate(self, path: str) -> Location | None:
        """Ask the library. Raises: NoSuchEntry, AccessDenied, SourceError."""
        reference = parse_library_name(path)
        if reference is None:
            return None
        known = self._resolved.get(reference)
        if known is not None:
            return known
        with surely_an_image():
            return self._resolved.keep(reference, await self._located(reference))

    async def renew(self, image: Image) -> Location:
        """The same version again, with a new token where one is needed; else what the name stands for now."""
        reference = parse_library_name(image.path)
        if reference is None:
            raise NoSuchEntry("a collection is no image", certain=True)
        with surely_an_image():
            if image.validator.kind is ValidatorKind.DIGEST and not is_hash(reference.repository):
                found = await self._by_digest(reference.repository, image.validator)
                if found is not None:
                    return found
            return await self._located(reference)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Entities, collections or images, from libraries that tell them; Sylabs' own does not."""
        depth = len(path.split("/")) if path else 0
        if not self._listing or depth >= DEPTH:
            return None
        what = ("entities", "collections", "containers")[depth]
        said = await self._ask(f"v1/{what}" + (f"/{path}" if path else ""), {}, also=_NOT_SPOKEN + _REFUSED)
        data = _data(said) if said.head.status == 200 else None
        if not isinstance(data, list):
            return None
        found = [entry for entry in data if isinstance(entry, dict) and is_part(entry.get("name"))]
        if depth < DEPTH - 1:
            return tuple(DirectoryEntry(entry["name"], EntryKind.DIRECTORY) for entry in found)
        return tuple(self._images_of(found))

    def _images_of(self, containers: Sequence[dict[str, Any]]) -> Iterator[DirectoryEntry]:
        for container in containers:
            tags = container.get("archTags")
            tags = tags.get(self._architecture) if isinstance(tags, dict) else container.get("imageTags")
            for tag in tags if isinstance(tags, dict) else ():
                shown = container["name"] + ("" if tag == "latest" else f":{tag}") + ".sif"
                if is_name(shown) and is_part(tag):
                    yield DirectoryEntry(shown, EntryKind.FILE)

    # --- an image ----------------------------------------------------------------------------------

    async def _located(self, reference: Reference) -> Location:
        data = await self._image(api_name(reference))
        digest = whole_file_digest(data.get("hash"))
        if reference.digest and (digest is None or digest.value != reference.digest):
            raise SourceProtocolError(
                "the library answers with another image than the one that was asked for"
            )
        self._takes_hashes = bool(reference.digest) or self._takes_hashes
        name = container_of(reference, data)
        if digest is not None and digest.value.startswith("sha256:"):
            found = await self._by_digest(name, digest)
            if found is not None:
                return found
            return Location(self._file(api_name(reference)), self._origin(name, digest), digest)
        url = self._file(api_name(reference))
        return Location(url, origin_of(url), digest)

    async def _image(self, name: str) -> dict[str, Any]:
        """The library's description of an image for this node. Raises: NoSuchEntry: it has none."""
        said = await self._ask(f"v1/images/{name}", {"arch": self._architecture})
        data = _data(said)
        if not isinstance(data, dict):
            raise SourceProtocolError(
                "the library's answer is no description of an image", origin=said.head.url
            )
        architecture = data.get("arch")
        if isinstance(architecture, str) and architecture not in ("", self._architecture):
            shown = architecture if is_part(architecture) else "another architecture"
            raise NoSuchEntry(f"the library has it for {shown} and not for {self._architecture}")
        return data

    async def _by_digest(self, name: str, digest: Validator) -> Location | None:
        """A location that cannot come to mean another version; None where this library has none."""
        found = await self._in_oci(name, digest)
        if found is not None:
            return found
        hashed = f"{name}:{hash_of(digest)}"
        if self._takes_hashes is None:
            self._takes_hashes = await self._is_known(hashed, digest)
        return (
            Location(self._file(hashed), self._origin(name, digest), digest) if self._takes_hashes else None
        )

    async def _is_known(self, hashed: str, digest: Validator) -> bool:
        """Whether the library takes a hash in place of a tag: asked once."""
        try:
            return whole_file_digest((await self._image(hashed)).get("hash")) == digest
        except (NoSuchEntry, AccessDenied, SourceProtocolError):
            return False

    async def _in_oci(self, name: str, digest: Validator) -> Location | None:
        """The blob in an OCI registry, with a token from the library; None where it hands out none."""
        if trio.current_time() < self._no_oci_until:
            return None
        asked = {"namespace": name, "mapped": "1", "accessTypes": "pull"}
        said = await self._ask("v1/oci-redirect", asked, also=_NOT_SPOKEN + _REFUSED)
        found = said.json() if said.head.status == 200 else None
        if not isinstance(found, dict):
            if said.head.status not in _REFUSED:
                self._no_oci_until = trio.current_time() + _ASKED_AGAIN_S
            return None
        registry, token, mapped = (found.get(key) for key in ("url", "token", "name"))
        below = mapped if isinstance(mapped, str) and mapped else name
        if not isinstance(registry, str) or not all(is_part(part) for part in below.split("/")):
            raise SourceProtocolError("the library names no registry that can be asked", origin=said.head.url)
        self._check_address(registry, "a registry")
        repository = f"{registry.rstrip('/')}/v2/{below}/"
        if isinstance(token, str) and token:
            if not token.isascii() or not token.isprintable():
                raise SourceProtocolError("the library gives a token that is none", origin=said.head.url)
            self._grants.grant(repository, token)
        url = f"{repository}blobs/{digest.value}"
        return Location(url, self._origin(name, digest), digest, content_addressed=True)

    def _file(self, name: str) -> str:
        return f"{join_url(self._base, f'v1/imagefile/{name}')}?arch={quote(self._architecture)}"

    def _origin(self, name: str, digest: Validator) -> str:
        """Identity: the same by whatever way the bytes come."""
        return origin_of(join_url(self._base, f"v1/imagefile/{name}")) + f":{hash_of(digest)}"

    # --- the library's address ---------------------------------------------------------------------

    @property
    def _base(self) -> str:
        return self._api or self._url

    async def _ask(self, path: str, query: Mapping[str, str], *, also: tuple[int, ...] = ()) -> Said:
        """An answer of the library's API, which the first one shows to be there.

        Raises: as `json_answer.get`.
        """
        if self._api is None:
            async with self._finding:
                if self._api is None:
                    return await self._ask_first(path, query, also)
        return await self._get(self._base, path, query, also)

    async def _ask_first(self, path: str, query: Mapping[str, str], also: tuple[int, ...]) -> Said:
        said = await self._get(self._url, path, query, (*also, *_NOT_SPOKEN, *_REFUSED))
        if not _is_envelope(said):
            found = await self._discover()
            if found is not None:
                self._grants.trust(found)
                self._api = found
                return await self._get(found, path, query, also)
        if said.head.status not in _REFUSED:
            self._api = self._url
        if said.head.status != 200 and said.head.status not in also:
            error = refusal(said.head)
            error.hint = HINT if isinstance(error, AccessDenied) else error.hint
            error.about(origin=said.head.url)
            raise error
        return said

    async def _discover(self) -> str | None:
        """The library that an endpoint names (`apptainer remote`); None where this is no endpoint."""
        said = await self._get(self._url, _ENDPOINT_FILE, {}, _NOT_SPOKEN + _REFUSED)
        address = None
        if said.head.status == 200:
            with suppress(SourceProtocolError, KeyError, TypeError):
                address = said.json()["libraryAPI"]["uri"]
        if not isinstance(address, str) or not address:
            return None
        self._check_address(address, "a library")
        return address

    async def _get(self, base: str, path: str, query: Mapping[str, str], also: tuple[int, ...]) -> Said:
        url = join_url(base, path) + (f"?{urlencode(query)}" if query else "")
        try:
            with self._quiet.heeded(urlsplit(base).netloc):
                return await get(self._transport, url, also=also)
        except AccessDenied as error:
            error.hint = HINT
            raise

    def _check_address(self, url: str, what: str) -> None:
        """Raises: SourceProtocolError: not an address, or one without TLS from a library that has it."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        except ValueError:
            usable = False
        if not usable or (self._url.startswith("https:") and parts.scheme == "http"):
            raise SourceProtocolError(
                f"the library names {what} that cannot be asked, or not with TLS", origin=origin_of(self._url)
            )


def _is_envelope(said: Said) -> bool:
    """Whether the library's API has answered, and not a web page in its place."""
    try:
        found = said.json()
    except SourceProtocolError:
        return False
    return isinstance(found, dict) and bool({"data", "error", "errors"} & found.keys())


def _data(said: Said) -> Any:
    found = said.json()
    return found.get("data") if isinstance(found, dict) else None
