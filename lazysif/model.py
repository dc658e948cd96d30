"""The values that travel between the rooms, and the seams (protocols) that the rooms meet at.

Nothing here does anything. Ranges are half-open `[start, stop)` in bytes of the image.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, Protocol, Self

InodeNumber = NewType("InodeNumber", int)
ImageId = NewType("ImageId", str)
"""32 hexadecimal digits; equal ids are equal bytes, whatever the name (`core.identity.image_id`)."""
Digest = NewType("Digest", bytes)
"""The 32 bytes of BLAKE3 over a block's plain content."""
Buffer = bytes | memoryview
"""Read-only content of a block or a part of one."""


class Hashed(bytes):
    """Bytes with their digest, made where there was time for it; pass for their bytes wherever nobody looks."""

    digest: Digest

    @classmethod
    def of(cls, data: bytes, digest: Digest) -> Self:
        """Args: digest: of just these bytes; whoever makes it is believed."""
        hashed = cls(data)
        hashed.digest = digest
        return hashed


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes `[start, stop)` of an image; never empty."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"not a range: [{self.start}, {self.stop})")

    @property
    def length(self) -> int:
        return self.stop - self.start


class ValidatorKind(StrEnum):
    """What says "same version", strongest first (design section 4)."""

    DIGEST = "digest"
    GENERATION = "generation"
    ETAG = "etag"
    LAST_MODIFIED = "last-modified"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Validator:
    """The mark of one version of an image, as its origin gives it.

    `value` is the header's text: a strong ETag with its quotes, or an HTTP date. With `NONE` it is a nonce made
    for one whole download, so that two of them are never taken for one version.
    """

    kind: ValidatorKind
    value: str


@dataclass(frozen=True, slots=True)
class VersionParameter:
    """How an object store names versions: answers say one in `header`, `?parameter=` asks for it again.

    Args:
        etag_tells: False where the ETag changes with the metadata, too: it then serves to ask whether anything
            has changed, and the header says whether an answer is of the version.
    """

    header: str
    parameter: str
    etag_tells: bool = True


@dataclass(frozen=True, slots=True)
class Location:
    """Where a registry says that the bytes of a name are.

    Args:
        url: to be asked for ranges; may be signed, so it is never shown to people. "" is not known (any more):
            the registry is asked to renew it when bytes are needed.
        origin: identity and what people see: no userinfo, no signature.
        validator: the version, where the registry knows it: a digest of the whole file ("sha256:<hex>",
            "md5:<hex>") or a generation. None: what the first answer says.
        size_bytes: where the registry knows it exactly.
        expires_at_s: seconds since 1970 when the URL stops to be valid; None: not known.
        content_addressed: the URL holds the digest, so its answers need no validator of their own.
        version: where the store keeps old versions: the one that the first answer names is asked for from then on.
        once: each GET is counted there, and ranges are not answered: it is asked for whole, by a single GET.
    """

    url: str
    origin: str
    validator: Validator | None = None
    size_bytes: int | None = None
    expires_at_s: float | None = None
    content_addressed: bool = False
    version: VersionParameter | None = None
    once: bool = False

    def __repr__(self) -> str:
        return f"Location(origin={self.origin!r}, validator={self.validator!r})"


@dataclass(frozen=True, slots=True)
class Image:
    """One version of a SIF file (or of any other file under a remote)."""

    id: ImageId
    remote: str
    path: str
    location: Location
    size_bytes: int
    validator: Validator
    ranges: bool = True
    """False where the origin answers 200 to a ranged request: read by one whole download."""
    modified_s: int = 0
    """Last-Modified as seconds since 1970, 0 if the origin does not say."""
    guard: Validator | None = None
    """What the answers with its bytes say of the version, where that is not `validator`: a registry knows a
    digest, and the server that it leads to an ETag."""

    @property
    def condition(self) -> Validator:
        """The validator that requests for its bytes carry, and that their answers must repeat."""
        version = self.location.version
        if version is not None and not version.etag_tells and self.validator.kind is ValidatorKind.GENERATION:
            return self.validator
        return self.freshness

    @property
    def freshness(self) -> Validator:
        """The validator that a question carries whether the name still stands for this version."""
        return self.guard if self.guard is not None else self.validator

    @property
    def name(self) -> str:
        """What a user types below the mountpoint."""
        return f"{self.remote}/{self.path}" if self.remote else self.path


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One line of a directory listing: a decoded single path component."""

    name: str
    kind: EntryKind


@dataclass(frozen=True, slots=True)
class Request:
    """A GET, in words that every transport understands.

    Args:
        url: absolute, http or https.
        headers: sent as they are; `Range` and `Accept-Encoding: identity` are added by the transport.
        byte_range: None asks for the whole.
        stall_s: longest silence between two pieces of the answer.
        total_s: longest time for the whole answer, body included.
        connect_s: longest time until a connection stands.
        anew: follow redirects from the start, where a target is kept from before.
        image: the version whose bytes are asked for, as mirrors are chosen and judged by; None asks what a name
            means.
        again: the same request is under way and late: this one goes another way, where there is one.
        once: it is counted (`Location.once`): not to be sent again to see whether the origin is back.
        bulk: nobody waits for it: its bytes may come in pieces of this size, `Hashed`, a moment late; 0 for what
            somebody waits for.
        followed_by: so many requests follow its answer at once, to the same place: their connections may be made
            beside it.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    byte_range: ByteRange | None = None
    stall_s: float = 20.0
    total_s: float = 60.0
    connect_s: float = 10.0
    anew: bool = False
    image: Image | None = None
    again: bool = False
    once: bool = False
    bulk: int = 0
    followed_by: int = 0


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Status line and headers of the final answer, after redirects.

    Args:
        url: where the answer came from in the end, without userinfo and query.
        headers: names in lower case; a repeated header keeps all its values joined by ", ".
    """

    status: int
    headers: Mapping[str, str]
    url: str


class Answer(Protocol):
    """An answer whose head has arrived and whose body is still to be read."""

    @property
    def head(self) -> AnswerHead: ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, undecoded; to be closed where it is left early (`contextlib.aclosing`).

        Raises:
            SourceTimeout: no more bytes in time.
            SourceUnavailable: reset, or a body that ends before its Content-Length.
        """
        ...


class Transport(Protocol):
    """Sends GETs of one remote, with its credentials, to hosts that may see them."""

    def send(self, request: Request) -> AbstractAsyncContextManager[Answer]:
        """Follow redirects (credentials stay at their origin) and yield the final answer, whatever its status.

        Leaving the block before the body is read closes the connection.

        Raises:
            SourceTimeout: no connection or no head in time.
            SourceUnavailable: no connection, no name, TLS handshake broken off, reset, an answer that is not
                HTTP (left over from the one before it on that connection).
            SourceProtocolError: certificate refused, redirect loop, an address that cannot be used.
        """
        ...

    async def aclose(self) -> None: ...


class Registry(Protocol):
    """Turns the path of a name below its remote into a location, and lists directories where its kind can."""

    async def locate(self, path: str) -> Location | None:
        """Where the image of that name is now; None for a name that is a directory on the way to images.

        May ask the origin; who calls remembers the answer for as long as names are believed.

        Raises: NoSuchEntry, AccessDenied, SourceError.
        """
        ...

    async def renew(self, image: Image) -> Location:
        """Where the bytes of this very version are now: asked when its URL has expired or was refused.

        Raises: ImageChanged where the name has another version and the old one cannot be asked for; else as
        `locate`.
        """
        ...

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """Entries of the directory `path` ("" is the remote's own), or None where the origin gives no listing.

        Raises: AccessDenied is an answer too (None); SourceError where the origin cannot be asked.
        """
        ...
