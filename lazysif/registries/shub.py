"""Singularity Hub and whatever speaks its API: `GET api/container/user/name:tag` names a file on any host.

The sequence is Apptainer's (internal/pkg/client/shub): one request, whose answer has `image` (the URL) and
`version` (the file's MD5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazysif.core.digests import whole_file_digest
from lazysif.core.locations import signed_until_s
from lazysif.core.names import join_url, origin_of
from lazysif.core.references import Reference
from lazysif.errors import NoSuchEntry, SourceProtocolError
from lazysif.model import DirectoryEntry, Image, Location, Transport, Validator, ValidatorKind
from lazysif.registries.collection_names import Resolved, reference_of, surely_an_image
from lazysif.registries.json_answer import get_json


class ShubRegistry:
    """Args: base_url: of the server, without `/api`."""

    def __init__(self, base_url: str, transport: Transport) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/api")
        self._transport = transport
        self._resolved = Resolved()

    async def locate(self, path: str) -> Location | None:
        """Ask the server, except for a digest that it has told of before.

        Raises: NoSuchEntry, AccessDenied, SourceError.
        """
        reference = reference_of(path)
        if reference is None:
            return None
        known = self._resolved.get(reference)
        return known if known is not None else await self._ask(reference)

    async def renew(self, image: Image) -> Location:
        """Ask for the version itself; a server that knows names alone is asked for the name."""
        reference = reference_of(image.path)
        if reference is None:
            raise NoSuchEntry("a collection is no image", certain=True)
        kind, _, digits = image.validator.value.partition(":")
        if kind == "md5" and image.validator.kind is ValidatorKind.DIGEST and not reference.digest:
            try:
                return await self._ask(Reference(reference.repository, reference.tag, digits))
            except NoSuchEntry:
                pass
        return await self._ask(reference)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """None: the API lists nothing."""
        return None

    async def _ask(self, reference: Reference) -> Location:
        url = join_url(self._base_url, f"api/container/{reference}")
        with surely_an_image():
            found = await get_json(self._transport, url)
        said = found if isinstance(found, dict) else {}
        address = image_address(said.get("image"), url)
        digest = whole_file_digest(said.get("version"))
        if reference.digest and not _names(said, digest, reference.digest):
            raise NoSuchEntry("the server has another version", origin=origin_of(url), certain=True)
        location = Location(
            address,
            self._origin(reference, digest),
            validator=digest,
            expires_at_s=signed_until_s(address),
        )
        return self._resolved.keep(reference, location)

    def _origin(self, reference: Reference, digest: Validator | None) -> str:
        """Without the tag where the digest says it all: a tag that moves to the same file is the same image."""
        if digest is None:
            return origin_of(join_url(self._base_url, f"api/container/{reference}"))
        digits = digest.value.partition(":")[2]
        return origin_of(join_url(self._base_url, f"api/container/{reference.repository}@{digits}"))


def _names(said: Mapping[str, Any], digest: Validator | None, wanted: str) -> bool:
    """Whether the answer is about the version that was asked for: some servers look at the tag alone."""
    as_file = whole_file_digest(wanted)
    return digest == as_file if as_file is not None else said.get("commit") in (None, wanted)


def image_address(address: object, url: str) -> str:
    """The image's own URL, as the registry's answer to `url` names it.

    Raises: SourceProtocolError: none, not http(s), or plain HTTP named by a registry that speaks HTTPS.
    """
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        raise SourceProtocolError(
            "the registry's answer names no address of the image", origin=origin_of(url)
        )
    if url.startswith("https://") and address.startswith("http://"):
        raise SourceProtocolError(
            "the registry leads from HTTPS to plain HTTP",
            origin=origin_of(url),
            hint="its owner must change that",
        )
    return address
