"""Brings the rest of images that are open, while nobody reads what is not cached ([fill]). Off by default.

A job that has started reads on from places that its start did not touch: on a node that is otherwise quiet they can
be fetched before. It stops with the first block that a reader has to wait for, and begins again after the same quiet
time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.core.pace import Pace
from lazysif.errors import LazysifError
from lazysif.image.bulk import Fill
from lazysif.image.open_image import OpenImage
from lazysif.model import ImageId
from lazysif.telemetry import Counters
from lazysif.tree.open_images import OpenImages

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_FULLEST = 0.9
"""Of the cache: from there on a fill would drive out what others use."""
_NOT_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class FillSettings:
    """Args:
    quiet_s: so long no reader has waited for a block before anything is brought.
    bytes_per_s: the most that is brought.
    """

    quiet_s: float
    bytes_per_s: float


class IdleFill:
    """Args: clock: of `trio.current_time`; a test has its own."""

    def __init__(
        self,
        images: OpenImages,
        cache: BlockCache,
        counters: Counters,
        settings: FillSettings,
        *,
        look_s: float = _LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._images = images
        self._cache = cache
        self._counters = counters
        self._settings = settings
        self._look_s = look_s
        self._clock = clock
        self._failed: dict[ImageId, float] = {}

    async def run(self) -> None:
        """Never returns, and never raises what would end the daemon's nursery."""
        seen, quiet_since = self._waits(), self._clock()
        while True:
            await trio.sleep(self._look_s)
            if self._waits() != seen:
                seen, quiet_since = self._waits(), self._clock()
            elif self._clock() - quiet_since >= self._settings.quiet_s:
                opened = self._next()
                if opened is not None:
                    await self._fill_while_quiet(opened, seen)

    def _waits(self) -> int:
        """Blocks that readers had to wait for so far."""
        return self._counters.misses + self._counters.joins

    def _next(self) -> OpenImage | None:
        """An image that is open, not whole, and fits beside what is cached."""
        status = self._cache.status()
        for opened in self._images.listed():
            image = opened.image
            if not image.ranges or not self._images.handles(image.id) or not self._cache.healthy:
                continue
            if self._clock() - self._failed.get(image.id, float("-inf")) < _NOT_AGAIN_S:
                continue
            missing_bytes = image.size_bytes - opened.blocks.cached_bytes()
            if missing_bytes and status.used_bytes + missing_bytes <= _FULLEST * status.limit_bytes:
                return opened
        return None

    async def _fill_while_quiet(self, opened: OpenImage, seen: int) -> None:
        pace = Pace(self._settings.bytes_per_s)
        fill = Fill(
            opened, self._cache, range(opened.block_map.count), pace, patience_s=self._settings.quiet_s
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guarded, fill, nursery.cancel_scope)
            # one look in a while: an event for each block that is waited for would cost its readers more
            while self._waits() == seen and self._images.handles(opened.image.id):  # noqa: ASYNC110
                await trio.sleep(self._look_s)
            nursery.cancel_scope.cancel()

    async def _guarded(self, fill: Fill, scope: trio.CancelScope) -> None:
        image = fill.opened.image
        try:
            await fill.run()
            log.info(
                "%s: all of it is cached; %d bytes were brought", image.name, fill.progress.fetched_bytes
            )
        except LazysifError as error:
            self._failed[image.id] = self._clock()
            log.info("%s is not filled: %s", image.name, error)
        except Exception:
            self._failed[image.id] = self._clock()
            self._counters.unexpected_errors += 1
            log.exception("filling %s failed in an unexpected way", image.name)
        scope.cancel()
