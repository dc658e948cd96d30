"""The first ranged GET of a name: its size, its version, whether its origin answers ranges, and its first bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import trio

from lazysif.core.content_range import IsDirectory, IsFile, Unchanged, changed_headers, judge_probe
from lazysif.core.identity import image_id
from lazysif.core.locations import generation_of, pinned
from lazysif.core.names import has_image_suffix
from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout
from lazysif.fetch.fetcher import Fetcher
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import ByteRange, Image, Location, Request, Transport, Validator, ValidatorKind
from lazysif.telemetry import Counters


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """The name is a directory at the origin."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """The name is a file: its present version, and its first bytes where they came (empty if unchanged)."""

    image: Image
    first_bytes: bytes
    unchanged: bool


Found = FoundDirectory | FoundImage


class Probe:
    """Asks one remote's origins. Args: remote: its name."""

    def __init__(
        self, remote: str, transport: Transport, fetcher: Fetcher, policy: RemotePolicy, counters: Counters
    ) -> None:
        self._remote = remote
        self._transport = transport
        self._fetcher = fetcher
        self._policy = policy
        self._counters = counters

    async def found(
        self, path: str, location: Location, known: Image | None, total_s: float, stall_s: float
    ) -> Found:
        """What the origin has there now.

        Args:
            known: the version that the name stood for.
            total_s: how long it may take.
            stall_s: the longest silence on the way.

        Raises:
            NoSuchEntry, AccessDenied, SourceError: as the origin answers.
        """
        ask = self._begin if location.once else self._ask
        return await ask(path, location, known, total_s, stall_s)

    async def _ask(
        self, path: str, location: Location, known: Image | None, total_s: float, stall_s: float
    ) -> Found:
        asked = ByteRange(0, self._policy.probe_bytes)
        self._counters.probe_requests += 1
        # a registry that names another version is not asked whether the old one still holds
        conditional = known if location.validator is None else None
        if conditional is not None:
            self._counters.revalidations += 1
        request = Request(
            url=location.url,
            headers=changed_headers(conditional.freshness) if conditional is not None else {},
            byte_range=asked,
            stall_s=min(stall_s, self._policy.stall_s),
            total_s=max(total_s, 0.1),
            anew=True,
            # who looks up an image that is new here is about to start it
            followed_by=self._fetcher.background_connections
            if known is None and has_image_suffix(path)
            else 0,
        )
        try:
            async with self._transport.send(request) as answer:
                verdict = judge_probe(
                    answer.head, asked, location.origin, content_addressed=location.content_addressed
                )
                match verdict:
                    case IsDirectory():
                        return FoundDirectory()
                    case Unchanged():
                        if conditional is None:
                            raise SourceProtocolError(
                                "the origin answered 304 to a request without conditions"
                            )
                        same = pinned(location, conditional.validator)
                        return FoundImage(replace(conditional, location=same), b"", unchanged=True)
                    case IsFile():
                        generation = generation_of(location, answer.head.headers)
                        image = self._image(path, location, verdict, generation)
                        async with aclosing(answer.chunks()) as chunks:
                            first = await self._first_bytes(chunks, verdict)
                        return FoundImage(image, first, unchanged=known is not None and known.id == image.id)
        except LazysifError as error:
            error.about(origin=location.origin)
            raise

    async def _begin(
        self, path: str, location: Location, known: Image | None, total_s: float, stall_s: float
    ) -> Found:
        """A probe that is the whole download, too, and waits to be gone on with (`fetch.begun`)."""
        self._refuse_whole()
        self._counters.probe_requests += 1
        request = Request(
            location.url,
            stall_s=self._policy.stall_s,
            total_s=self._fetcher.whole_file_budget_s,
            once=True,
        )
        try:
            with trio.fail_after(max(total_s, 0.1)):
                async with self._fetcher.begun.begin(request) as begun:
                    verdict = judge_probe(begun.head, ByteRange(0, 1), location.origin)
                    if not isinstance(verdict, IsFile) or verdict.ranges:
                        raise SourceProtocolError("the origin does not answer with the file")
                    image = self._image(path, location, verdict, None)
                    begun.keep_for = image.id
        except trio.TooSlowError:
            raise SourceTimeout("no answer from the origin in time", origin=location.origin) from None
        except LazysifError as error:
            error.about(origin=location.origin)
            raise
        return FoundImage(image, b"", unchanged=known is not None and known.id == image.id)

    def _refuse_whole(self) -> None:
        """Raises: SourceProtocolError: whole downloads are not wanted."""
        if not self._policy.spool_whole:
            raise SourceProtocolError(
                "the origin cannot serve parts of the file",
                hint='whole_file = "spool" in its remote allows to download it whole',
            )

    async def _first_bytes(self, chunks: AsyncIterator[bytes], verdict: IsFile) -> bytes:
        if verdict.body is None:
            return b""
        pieces = []
        length = 0
        async for chunk in chunks:
            pieces.append(chunk)
            length += len(chunk)
            if length > verdict.body.length:
                raise SourceProtocolError("the origin sent more bytes than it was asked for")
        self._counters.fetched_bytes += length
        if length != verdict.body.length:
            raise SourceProtocolError("the origin's answer is shorter than it says")
        return b"".join(pieces)

    def _image(self, path: str, location: Location, verdict: IsFile, generation: Validator | None) -> Image:
        guard = verdict.validator
        if not verdict.ranges:
            self._refuse_whole()
            if guard.kind is ValidatorKind.NONE:
                guard = self._fetcher.new_download()
        if location.size_bytes not in (None, verdict.size_bytes):
            raise SourceProtocolError(
                f"the registry says {location.size_bytes} bytes, and the file has {verdict.size_bytes}"
            )
        if location.content_addressed and location.validator is not None:
            guard = location.validator
        validator = location.validator or generation or guard
        return Image(
            id=image_id(location.origin, validator, verdict.size_bytes),
            remote=self._remote,
            path=path,
            location=pinned(location, validator),
            size_bytes=verdict.size_bytes,
            validator=validator,
            ranges=verdict.ranges,
            modified_s=verdict.modified_s,
            guard=guard if guard != validator else None,
        )
