"""One remote: its registry, its transport and its fetches."""

from __future__ import annotations

import random
from dataclasses import replace

import trio

from lazysif.core.locations import pinned
from lazysif.core.retry import retry_delay_s
from lazysif.errors import LazysifError, SourceTimeout
from lazysif.fetch.fetcher import Fetcher
from lazysif.fetch.policy import RemotePolicy
from lazysif.fetch.probe import Found, FoundDirectory, FoundImage, Probe
from lazysif.model import DirectoryEntry, Image, Location, Registry, Transport
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
        self._probe = Probe(name, transport, fetcher, policy, counters)

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
            found = await self._probe.found(path, location, known, total_s, stall_s)
        if isinstance(found, FoundImage):
            self.fetcher.locations.learned(found.image)
        return found


def _says_same(location: Location, known: Image) -> bool:
    """Whether the registry itself says that the name stands for the version known before."""
    return (
        location.validator is not None
        and location.validator == known.validator
        and location.origin == known.location.origin
        and location.size_bytes in (None, known.size_bytes)
    )
