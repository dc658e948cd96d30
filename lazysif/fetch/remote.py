"""One remote: its registry, its transport and its fetches; and the first ranged GET of a name (the probe)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import trio

from lazysif.core.content_range import IsDirectory, IsFile, Unchanged, changed_headers, judge_probe
from lazysif.core.identity import image_id
from lazysif.core.locations import generation_of, pinned
from lazysif.core.names import has_image_suffix
from lazysif.core.retry import retry_delay_s
from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout
from lazysif.fetch.fetcher import Fetcher
from lazysif.model import (
    ByteRange,
    DirectoryEntry,
    Image,
    Location,
    Registry,
    Request,
    Transport,
    Validator,
    ValidatorKind,
)
from lazysif.telemetry import Counters

_PROBE_ATTEMPTS = 4
_BUDGET_SHARE = 0.9
"""Of the look-up's deadline: the error that says what the origin did comes before the one that only says "late"."""
_REVALIDATION_SHARE = 0.5
"""The same where a version is known: when the origin is silent, it is still served in time."""
_SHORT_S = 1.0
"""For a look-up at an origin that is offline: the kernel sends one LOOKUP a directory at a time, so that each
second spent on a name is a second more for its neighbours."""
_SHORT_AT_ONCE = 4


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


@dataclass(frozen=True, slots=True)
class RemotePolicy:
    """What a remote's configuration says about names and versions. Times in seconds.

    Args:
        spool_whole: download a file whole where its origin answers no ranges; else such a file is an error.
        origin: the remote's own address as people see it.
        asked_of: a mark of all that the configuration says of where names lead; with another one, what was said of
            a name before says nothing.
    """

    revalidate_s: float = 60.0
    negative_s: float = 5.0
    spool_whole: bool = True
    listing: bool = True
    origin: str = ""
    asked_of: str = ""
    probe_bytes: int = 256 << 10
    lookup_budget_s: float = 20.0
    stall_s: float = 20.0
    uid: int = 0
    gid: int = 0
    mode: int = 0o555


class Remote:
    """Args: name: the top-level directory, "" where the mount's root is the remote itself."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        transport: Transport,
        fetcher: Fetcher,
        policy: RemotePolicy,
        counters: Counters,
    ) -> None:
        self.name = name
        self.policy = policy
        self.fetcher = fetcher
        self.contact = fetcher.contact
        self._short_tries = trio.CapacityLimiter(_SHORT_AT_ONCE)
        self._registry = registry
        self._transport = transport
        self._counters = counters

    async def find(self, path: str, known: Image | None) -> Found:
        """Ask the origin what `path` is now, with one ranged GET if `known` is None or another version.

        Raises:
            NoSuchEntry, AccessDenied, SourceError: as the origin answers, temporary failures after retries.
        """
        # an origin that is only slow must not fail names that nothing is known of
        if self.contact.offline or (known is not None and self.contact.doubtful):
            return await self._find_shortly(path, known)
        share = _BUDGET_SHARE if known is None else _REVALIDATION_SHARE
        return await self._find_patiently(path, known, share * self.policy.lookup_budget_s)

    async def _find_shortly(self, path: str, known: Image | None) -> Found:
        """One try in little time, few at once; a version that is known is only asked about when it is time to.

        Raises:
            as `find`.
        """
        if known is not None and not self.contact.may_try:
            error = self.contact.error()
            error.about(image=self._shown(path), origin=known.location.origin)
            raise error
        budget_s = min(_SHORT_S, _BUDGET_SHARE * self.policy.lookup_budget_s)
        try:
            async with self._short_tries:
                location = await self._located(path, budget_s)
                return await self._told(path, location, known, budget_s, budget_s / 2)
        except LazysifError as error:
            error.about(image=self._shown(path))
            raise

    async def _find_patiently(self, path: str, known: Image | None, budget_s: float) -> Found:
        began = trio.current_time()
        attempt = 0
        asked, location = False, None
        while True:
            attempt += 1
            try:
                if not asked:
                    location = await self._located(path, budget_s - (trio.current_time() - began))
                    asked = True
                left_s = budget_s - (trio.current_time() - began)
                return await self._told(path, location, known, left_s, self.policy.stall_s)
            except LazysifError as error:
                delay_s = retry_delay_s(
                    error,
                    attempt,
                    elapsed_s=trio.current_time() - began,
                    budget_s=budget_s,
                    max_attempts=_PROBE_ATTEMPTS,
                    jitter=random.random(),
                )
                if delay_s is None:
                    error.about(image=self._shown(path))
                    raise
                self._counters.retries += 1
                await trio.sleep(delay_s)

    async def list(self, path: str) -> tuple[DirectoryEntry, ...] | None:
        """See `model.Registry.list`; None too where listings are switched off."""
        if not self.policy.listing:
            return None
        self._counters.listing_requests += 1
        budget_s = _BUDGET_SHARE * self.policy.lookup_budget_s
        if self.contact.offline:
            budget_s = min(_SHORT_S, budget_s)
        try:
            with trio.fail_after(budget_s):
                return await self._registry.list(path)
        except trio.TooSlowError:
            raise SourceTimeout(
                "no listing from the origin in time", image=self._shown(path), origin=self.policy.origin
            ) from None
        except LazysifError as error:
            error.about(image=self._shown(path))
            raise

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _shown(self, path: str) -> str:
        return "/".join(part for part in (self.name, path) if part)

    async def _located(self, path: str, budget_s: float) -> Location | None:
        try:
            with trio.fail_after(max(budget_s, 0.1)):
                return await self._registry.locate(path)
        except trio.TooSlowError:
            raise SourceTimeout("no answer from the registry in time", origin=self.policy.origin) from None

    async def _told(
        self, path: str, location: Location | None, known: Image | None, total_s: float, stall_s: float
    ) -> Found:
        """What the name is by what the registry says, and by a probe unless that says it all."""
        if location is None:
            return FoundDirectory()
        if known is not None and _says_same(location, known):
            same = pinned(location, known.validator)
            found: Found = FoundImage(replace(known, location=same), b"", unchanged=True)
        else:
            ask = self._begin if location.once else self._probe
            found = await ask(path, location, known, total_s, stall_s)
        if isinstance(found, FoundImage):
            self.fetcher.locations.learned(found.image)
        return found

    async def _probe(
        self, path: str, location: Location, known: Image | None, total_s: float, stall_s: float
    ) -> Found:
        asked = ByteRange(0, self.policy.probe_bytes)
        self._counters.probe_requests += 1
        # a registry that names another version is not asked whether the old one still holds
        conditional = known if location.validator is None else None
        if conditional is not None:
            self._counters.revalidations += 1
        request = Request(
            url=location.url,
            headers=changed_headers(conditional.freshness) if conditional is not None else {},
            byte_range=asked,
            stall_s=min(stall_s, self.policy.stall_s),
            total_s=max(total_s, 0.1),
            anew=True,
            # who looks up an image that is new here is about to start it
            followed_by=self.fetcher.background_connections
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
            stall_s=self.policy.stall_s,
            total_s=self.fetcher.whole_file_budget_s,
            once=True,
        )
        try:
            with trio.fail_after(max(total_s, 0.1)):
                async with self.fetcher.begun.begin(request) as begun:
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
        if not self.policy.spool_whole:
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
                guard = self.fetcher.new_download()
        if location.size_bytes not in (None, verdict.size_bytes):
            raise SourceProtocolError(
                f"the registry says {location.size_bytes} bytes, and the file has {verdict.size_bytes}"
            )
        if location.content_addressed and location.validator is not None:
            guard = location.validator
        validator = location.validator or generation or guard
        return Image(
            id=image_id(location.origin, validator, verdict.size_bytes),
            remote=self.name,
            path=path,
            location=pinned(location, validator),
            size_bytes=verdict.size_bytes,
            validator=validator,
            ranges=verdict.ranges,
            modified_s=verdict.modified_s,
            guard=guard if guard != validator else None,
        )


def _says_same(location: Location, known: Image) -> bool:
    """Whether the registry itself says that the name stands for the version known before."""
    return (
        location.validator is not None
        and location.validator == known.validator
        and location.origin == known.location.origin
        and location.size_bytes in (None, known.size_bytes)
    )
