"""Where the bytes of each version are now: learned by look-ups, renewed when a URL expires or is refused.

A signed URL holds for minutes and a job runs for days: the registry is asked anew, once for all who wait, and a
reader notices nothing. What it gives must be the same version.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import trio

from lazysif.core.locations import has_expired, pinned
from lazysif.errors import ImageChanged, LazysifError
from lazysif.model import Image, ImageId, Location, Registry, ValidatorKind
from lazysif.telemetry import Counters

_MOST = 10_000
_ASKED_AGAIN_S = 10.0
"""A version whose new URL is refused too, or whose registry fails, costs one question in this time."""


class _Renewal:
    """What is known of one version's location; `lock` is held by who asks for a new one."""

    __slots__ = ("asked_at", "error", "location", "lock")

    def __init__(self, location: Location) -> None:
        self.location = location
        self.lock = trio.Lock()
        self.asked_at = float("-inf")
        self.error: LazysifError | None = None


class Locations:
    """Locations of one remote's images. Used in the daemon's tasks alone, which nobody cancels."""

    def __init__(self, registry: Registry, counters: Counters) -> None:
        self._registry = registry
        self._counters = counters
        self._known: OrderedDict[ImageId, _Renewal] = OrderedDict()

    def learned(self, image: Image) -> None:
        """A look-up has just been told this location."""
        self._of(image).location = image.location

    def _of(self, image: Image) -> _Renewal:
        known = self._known.get(image.id)
        if known is None:
            known = self._known[image.id] = _Renewal(image.location)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(image.id)
        return known

    async def current(self, image: Image) -> Location:
        """A location that has not expired. Raises: as `renewed`."""
        known = self._of(image)
        if has_expired(known.location, time.time()):
            return await self.renewed(image, known.location)
        return known.location

    async def renewed(self, image: Image, refused: Location) -> Location:
        """Another location than `refused`, or the same where the registry has no other (it was asked just now).

        Raises:
            ImageChanged: the name has another version by now.
            NoSuchEntry, AccessDenied, SourceError: the registry cannot say.
        """
        known = self._of(image)
        async with known.lock:
            if known.location is not refused and not has_expired(known.location, time.time()):
                return known.location
            if trio.current_time() - known.asked_at < _ASKED_AGAIN_S:
                if known.error is not None:
                    raise known.error.with_traceback(None)
                return known.location
            known.asked_at = trio.current_time()
            known.error = None
            self._counters.renewals += 1
            try:
                known.location = await self._ask(image)
            except LazysifError as error:
                known.error = error
                raise
            return known.location

    async def _ask(self, image: Image) -> Location:
        location = await self._registry.renew(image)
        now = location.validator
        if now is not None and now.kind is image.validator.kind and now != image.validator:
            raise ImageChanged("the name stands for another version by now", image=image.name)
        if image.validator.kind is ValidatorKind.DIGEST and now is None:
            raise ImageChanged("the registry no longer says which version it has", image=image.name)
        return pinned(location, image.validator)
