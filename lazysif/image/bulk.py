"""Brings many blocks of one image into the cache in the background: what `lazysif warm` and the fill of idle
times do.

Nobody waits for these blocks: they go past the memory tier, so that they drive out nothing that is read, their
requests are large, and each gives way to demand (`fetch.lanes`). Asked for is only what the disk does not have, so a
fill that was broken off, by whatever, goes on where it was.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.core.block_map import length
from lazysif.core.pace import Pace
from lazysif.core.plan import plan_extents
from lazysif.errors import LazysifError, LocalDirectoryError, SourceUnavailable
from lazysif.fetch.flights import Flight
from lazysif.image.open_image import OpenImage

log = logging.getLogger(__name__)

EXTENT_BYTES = 4 << 20
"""Of one request. Over loopback 4 MiB came at 950 MB/s, 1 MiB at 570; who needs a block in the middle waits for what
comes before it, which takes 35 ms at 1 Gbit/s."""
EXTENTS_AT_ONCE = 4
_LONGEST_PAUSE_S = 30.0
_MOST_PASSES = 3


@dataclass(slots=True)
class Progress:
    """How far a fill is; read from other threads.

    Args:
        total_bytes: of the blocks that are wanted.
        done_bytes: of those that are in the cache by now.
        fetched_bytes: of those that this fill brought.
        trouble: why it is not getting on at the moment, "" if it is.
    """

    total_bytes: int = 0
    done_bytes: int = 0
    fetched_bytes: int = 0
    trouble: str = ""


@dataclass(slots=True)
class Fill:
    """One fill. `run` it once.

    Args:
        blocks: what is wanted, in the order in which it is asked for.
        pace: may be changed meanwhile.
        patience_s: how long an origin that cannot be reached is tried again, counted from the last block that came.
        first_pause_s: before the first such try; doubles.
    """

    opened: OpenImage
    cache: BlockCache
    blocks: Sequence[int]
    pace: Pace
    progress: Progress = field(default_factory=Progress)
    patience_s: float = 300.0
    first_pause_s: float = 1.0
    _moved_at: float = 0.0

    async def run(self) -> None:
        """Return when all blocks are on disk.

        Raises:
            LocalDirectoryError: the cache cannot take them.
            AccessDenied, ImageChanged, SourceError: the origin, temporary failures after patience.
        """
        self._moved_at = trio.current_time()
        self.progress.total_bytes = self._bytes(self.blocks)
        for _ in range(_MOST_PASSES):
            self._check_cache()
            lacking = await self._lacking()
            self.progress.done_bytes = self.progress.total_bytes - self._bytes(lacking)
            if not lacking:
                return
            await self._bring_patiently(lacking)
            await self._others(lacking)
            await self.cache.flush()
        lacking = await self._lacking()
        if lacking:
            raise LocalDirectoryError(
                f"{len(lacking)} blocks did not stay in the cache",
                hint="see lazysif status: its size and state",
            )

    async def _lacking(self) -> list[int]:
        """The wanted blocks that are not on disk, in order."""
        return await self.opened.blocks.lacking(self.blocks)

    def _check_cache(self) -> None:
        status = self.cache.status()
        if not self.cache.healthy:
            raise LocalDirectoryError(f"the cache is {status.state} ({status.trouble or 'starting'})")
        if self.progress.total_bytes > status.limit_bytes:
            raise LocalDirectoryError(
                f"{self.progress.total_bytes} bytes are wanted, and the cache may hold {status.limit_bytes}",
                hint="make the cache larger, or warm less: --trace",
            )

    async def _bring_patiently(self, lacking: list[int]) -> None:
        pause_s = self.first_pause_s
        while True:
            landed = self.progress.fetched_bytes
            try:
                await self._bring(self.opened.asking.missing(lacking))
                self.progress.trouble = ""
                return
            except SourceUnavailable as error:
                if self.progress.fetched_bytes > landed:
                    pause_s = self.first_pause_s
                if trio.current_time() - self._moved_at > self.patience_s:
                    raise
                self.progress.trouble = str(error)
            self._check_cache()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _others(self, lacking: list[int]) -> None:
        """Wait for what readers had asked for already; where they got an error the next pass asks itself."""
        for flight in self.opened.asking.under_way(lacking):
            try:
                await flight.wait()
            except LazysifError as error:
                log.debug("%s: %s", self.opened.image.name, error)

    async def _bring(self, missing: list[int]) -> None:
        """Ask for these blocks, a few extents at a time. Raises what ended the first flight that failed."""
        under_way: deque[list[Flight]] = deque()
        for run in self._runs(missing):
            if not self.cache.healthy:
                self._check_cache()
            await trio.sleep(self.pace.take(self._bytes(run), trio.current_time()))
            while len(under_way) >= EXTENTS_AT_ONCE:
                await self._landed(under_way.popleft())
            # while this waited others may have asked for some of them
            for part in self._parts(run):
                under_way.append(self.opened.bring(part, self._note))
        while under_way:
            await self._landed(under_way.popleft())

    def _runs(self, missing: list[int]) -> list[range]:
        """Extents, in the order of their first blocks among `missing`."""
        place = {index: position for position, index in enumerate(missing)}
        runs = self._extents(missing)
        return sorted(runs, key=lambda run: min(place[index] for index in run))

    def _parts(self, run: range) -> list[range]:
        return self._extents(self.opened.asking.missing(run))

    def _extents(self, blocks: Sequence[int]) -> list[range]:
        most_bytes = self.pace.piece_bytes(EXTENT_BYTES)
        return plan_extents(self.opened.block_map, blocks, lambda index: True, max_bytes=most_bytes)

    async def _landed(self, flights: list[Flight]) -> None:
        """Wait for the last first: whoever waits for each in its turn is woken for each, 30 µs a block."""
        for flight in reversed(flights):
            await flight.wait()

    def _note(self, size_bytes: int) -> None:
        """A block has come."""
        self.progress.done_bytes = min(self.progress.done_bytes + size_bytes, self.progress.total_bytes)
        self.progress.fetched_bytes += size_bytes
        self.progress.trouble = ""
        self._moved_at = trio.current_time()

    def _bytes(self, blocks: Sequence[int]) -> int:
        return sum(length(self.opened.block_map, index) for index in blocks)
