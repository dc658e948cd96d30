"""SIF files in OCI registries (`oras://`): a name leads to a manifest, and that to the digest of the whole file.

What a digest stands for never changes, so it is asked for once; a tag is asked about with the ETag of the last
answer, where the registry gave one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from lazysif.core import oci
from lazysif.core.oci import Descriptor, Index
from lazysif.core.references import Reference, parse_reference
from lazysif.errors import AccessDenied, FormatError, ImageChanged, NoSuchEntry, SourceProtocolError
from lazysif.model import (
    DirectoryEntry,
    EntryKind,
    Image,
    Location,
    Transport,
    Validator,
    ValidatorKind,
)
from lazysif.registries import json_answer
from lazysif.registries.quiet import Quiet

_ACCEPT = ", ".join(oci.MANIFEST_KINDS)
_MAX_KNOWN = 10_000
_MAX_HOPS = 3
"""Manifests on the way to a SIF: an index, rarely an index of indexes."""
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a tag stood for when it was asked about last."""

    etag: str
    layer: Descriptor


class OrasRegistry:
    """All registries of one remote. Names are `host/repository[:tag][@digest][.sif]`.

    Args:
        transport: sends with the credentials of each host.
        serves: whether ordinary users may have this host (with its port) asked.
        below: `host` or `host/path`, put before every name; "" for none.
        shown_hosts: what a listing of the remote's own directory shows.
        architecture: of this node, as registries call it.
        plain_http: no TLS.
        hint: what to do where access is denied.
    """

    def __init__(
        self,
        transport: Transport,
        serves: Callable[[str], bool],
        *,
        architecture: str,
        below: str = "",
        shown_hosts: tuple[str, ...] = (),
        plain_http: bool = False,
        hint: str = "",
    ) -> None:
        self._transport = transport
        self._serves = serves
        self._below = below
        self._shown_hosts = shown_hosts
        self._architecture = architecture
        self._scheme = "http" if plain_http else "https"
        self._hint = hint
        self._layers: OrderedDict[tuple[str, str], Descriptor] = OrderedDict()
        self._tags: OrderedDict[str, _Asked] = OrderedDict()
        self._quiet = Quiet()

    async def locate(self, path: str) -> Location | None:
        """Where the SIF is that a name stands for now.

        Raises:
            NoSuchEntry: no such image, a host that is not served, or no image for this architecture.
            AccessDenied, SourceError: as the registry answers, or it holds something else than a SIF.
        """
        host, _, rest = "/".join(part for part in (self._below, path) if part).partition("/")
        if host and not self._below:
            self._check_host(host)
        reference = self._reference(rest)
        if reference is None:
            return None
        repository_url = f"{self._scheme}://{oci.api_host(host.lower())}/v2/{reference.repository}"
        try:
            layer = await self._layer(repository_url, reference)
        except NoSuchEntry as error:
            error.certain = True
            raise
        except AccessDenied as error:
            # a 403, too: no directory can have this name
            error.asks_credentials = True
            error.hint = self._hint or error.hint
            raise
        return _location(f"{repository_url}/blobs/{layer.digest}", layer.digest, layer.size)

    async def renew(self, image: Image) -> Location:
        """The same URL: it names the digest, and what expires (tokens, storage behind it) is renewed on its way.

        Raises: ImageChanged: an image that no name of this remote can stand for any more.
        """
        url = image.location.origin
        digest = url.rpartition("/")[2]
        parts = urlsplit(url)
        if parts.scheme != self._scheme or oci.repository_in(url) is None or not oci.is_digest(digest):
            raise ImageChanged("this version was not found by this remote", image=image.name, origin=url)
        self._check_host(parts.netloc)
        return _location(url, digest, image.size_bytes)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """The hosts that are named; registries themselves list nothing below them."""
        if path or self._below or not self._shown_hosts:
            return None
        return tuple(DirectoryEntry(host, EntryKind.DIRECTORY) for host in self._shown_hosts)

    def _check_host(self, host: str) -> None:
        """A bare word is a host only where it is named: `README` below a remote of all hosts is none."""
        meant = {".", ":"} & set(host) or host in self._shown_hosts or self._below
        if not meant or not oci.is_host(host) or not self._serves(host.lower()):
            raise NoSuchEntry(
                f"{host!r} is no registry of this remote", hint="hosts names those that are", certain=True
            )

    def _reference(self, rest: str) -> Reference | None:
        """Raises: NoSuchEntry: what no image and no directory can be called."""
        try:
            reference = parse_reference(rest)
        except ValueError:
            raise NoSuchEntry("no image can have that name", certain=True) from None
        if reference is None:
            if rest and not oci.is_repository(rest):
                raise NoSuchEntry("no repository can have that name", certain=True)
            return None
        if not oci.is_repository(reference.repository) or not oci.is_tag(reference.tag):
            raise NoSuchEntry("no image can have that name", certain=True)
        if reference.digest and not oci.is_digest(reference.digest):
            raise NoSuchEntry(
                "no image can have that digest",
                hint="write @sha256: and 64 hexadecimal digits",
                certain=True,
            )
        return reference

    async def _layer(self, repository_url: str, reference: Reference) -> Descriptor:
        """The layer that is the SIF: known by digest, or asked for."""
        if reference.digest:
            return await self._by_digest(repository_url, reference.digest, _MAX_HOPS)
        return await self._by_tag(repository_url, reference.tag)

    async def _by_digest(self, repository_url: str, digest: str, hops: int) -> Descriptor:
        key = (repository_url, digest)
        layer = self._layers.get(key)
        if layer is None:
            url = f"{repository_url}/manifests/{digest}"
            said = await self._ask(url, "")
            if oci.digest_of(said.body) != digest:
                raise SourceProtocolError("the registry's manifest does not have its digest", origin=url)
            layer = await self._follow(repository_url, said.body, url, hops)
        _remember(self._layers, key, layer)
        return layer

    async def _by_tag(self, repository_url: str, tag: str) -> Descriptor:
        url = f"{repository_url}/manifests/{tag}"
        before = self._tags.get(url)
        said = await self._ask(url, before.etag if before is not None else "")
        if said.head.status == 304 and before is not None:
            return before.layer
        digest = oci.digest_of(said.body)
        if said.head.headers.get("docker-content-digest", digest) != digest:
            raise SourceProtocolError("the registry's manifest does not have its digest", origin=url)
        layer = await self._follow(repository_url, said.body, url, _MAX_HOPS)
        _remember(self._layers, (repository_url, digest), layer)
        _remember(self._tags, url, _Asked(said.head.headers.get("etag", ""), layer))
        return layer

    async def _follow(self, repository_url: str, body: bytes, url: str, hops: int) -> Descriptor:
        """From a manifest to the layer, by way of an index where it is one."""
        try:
            found = oci.parse_manifest(body)
            if isinstance(found, Index):
                if hops <= 1:
                    raise SourceProtocolError("the registry's index leads to no manifest")
                chosen = found.choose(self._architecture)
                return await self._by_digest(repository_url, chosen.digest, hops - 1)
        except FormatError as error:
            raise SourceProtocolError(error.why, origin=url) from error
        except (SourceProtocolError, NoSuchEntry) as error:
            error.about(origin=url)
            raise
        return found

    async def _ask(self, url: str, etag: str) -> json_answer.Said:
        headers = {"Accept": _ACCEPT, **({"If-None-Match": etag} if etag else {})}
        also = (304,) if etag else ()
        with self._quiet.heeded(urlsplit(url).netloc):
            return await json_answer.get(
                self._transport, url, headers, also=also, longest=oci.LARGEST_MANIFEST
            )


def _location(url: str, digest: str, size_bytes: int) -> Location:
    return Location(
        url,
        url,
        validator=Validator(ValidatorKind.DIGEST, digest),
        size_bytes=size_bytes,
        content_addressed=True,
    )


def _remember(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > _MAX_KNOWN:
        table.popitem(last=False)
