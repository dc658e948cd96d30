"""What of an image its origin is asked for: what reads lack, what is guessed around that, and what comes next.

All on the trio thread: between the last look at the flights and their start lies no checkpoint, so no block is
fetched twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from lazysif.core.block_map import length, span
from lazysif.core.guesses import Guesses, GuessLimits, gap_before
from lazysif.core.plan import plan_extents
from lazysif.core.readahead import Readahead
from lazysif.fetch.extent import Sink
from lazysif.fetch.fetcher import Fetcher
from lazysif.fetch.flights import Flight
from lazysif.image.blocks import ImageBlocks
from lazysif.image.tracing import ImageTracing
from lazysif.model import Buffer, ByteRange, Image
from lazysif.telemetry import Counters


@dataclass(frozen=True, slots=True)
class ExtentLimits:
    """Bytes of one request: demand is kept small so that its readers are soon served, background large.

    Where no trace is followed `demand_bytes` are without the guesses behind a miss: in two requests these shared the
    line with what is waited for, 5 % of the seconds that an `import torch` waited in a replay.
    """

    demand_bytes: int = 1 << 20
    background_bytes: int = 2 << 20
    gap_bytes: int = 128 << 10
    guesses: GuessLimits = field(default_factory=GuessLimits)
    """What a miss takes along: the next read is often there, and it costs no round trip of its own."""


class Asking:
    """Starts the flights of one image, and joins those that are under way.

    Args:
        sink: where the blocks go.
    """

    def __init__(
        self,
        image: Image,
        blocks: ImageBlocks,
        fetcher: Fetcher,
        counters: Counters,
        sink: Sink,
        limits: ExtentLimits,
    ) -> None:
        self.tracing: ImageTracing | None = None
        """Set where starts of this image are followed: what a trace names goes before what is guessed."""
        self._image = image
        self._blocks = blocks
        self._block_map = blocks.block_map
        self._fetcher = fetcher
        self._counters = counters
        self._sink = sink
        self._limits = limits
        self._readahead = Readahead()
        self._unproved: set[int] = set()
        """Asked for though no read needed them, and not read so far."""
        self.guesses = Guesses(lambda block: length(self._block_map, block), limits.guesses)

    # --- what there is to ask for -----------------------------------------------------------------

    def is_missing(self, index: int) -> bool:
        """Neither cached as far as the table knows, nor on its way."""
        return not self._blocks.known(index) and self._flight(index) is None

    def missing(self, blocks: Iterable[int]) -> list[int]:
        """Those of the blocks that are neither cached as far as the table knows, nor on their way."""
        return [index for index in blocks if self.is_missing(index)]

    def under_way(self, blocks: Iterable[int]) -> list[Flight]:
        """The flights that bring some of these blocks, whoever asked for them."""
        return [flight for flight in map(self._flight, blocks) if flight is not None]

    def _flight(self, index: int, *, demand: bool = False) -> Flight | None:
        return self._fetcher.flight(self._image, index, demand=demand)

    @property
    def _following(self) -> bool:
        return self.tracing is not None and self.tracing.following

    # --- for readers that wait --------------------------------------------------------------------

    def join_or_start(self, indices: Iterable[int]) -> list[tuple[int, Flight | Buffer]]:
        """For each block its flight, joined or just started, or its bytes if they came in the meantime."""
        sources: list[tuple[int, Flight | Buffer]] = []
        to_start: list[int] = []
        for index in indices:
            flight = self._flight(index, demand=True)
            landed = self._blocks.in_memory(index) if flight is None else None
            if flight is not None:
                self._counters.joins += 1
                sources.append((index, flight))
            elif landed is not None:
                self._counters.hits += 1
                sources.append((index, landed))
            else:
                self._counters.misses += 1
                to_start.append(index)
        started = self._start_demand(to_start)
        sources.extend((index, started[index]) for index in to_start)
        return sources

    def _start_demand(self, wanted: Sequence[int]) -> dict[int, Flight]:
        """Start extents that cover these blocks, none of them under way, and guesses. Returns all flights."""
        if not wanted:
            return {}
        if not self._image.ranges:
            return self._by_block(self._start_whole(wanted, self._sink))
        limits, needed = self._limits, set(wanted)
        gap = self._gap(needed)
        guessed_bytes = 0 if self._following else limits.guesses.most_bytes
        runs = plan_extents(
            self._block_map,
            needed | self._neighbours(needed, gap),
            lambda index: index in needed or self.is_missing(index),
            max_bytes=limits.demand_bytes + guessed_bytes,
            gap_bytes=limits.gap_bytes,
        )
        flights = self._by_block(self._start_runs(runs, wanted, demand=True))
        self._note_unproved(flights.keys() - needed)
        self.guesses.missed(needed)
        self.prefetch_blocks(gap)  # a request of its own: in one, who waits would wait for the gap, too
        return flights

    def _gap(self, wanted: set[int]) -> range:
        """The blocks before a miss that are guessed, up to what is there already."""
        if self._following:
            return range(0)
        return gap_before(
            min(wanted),
            self.is_missing,
            lambda block: length(self._block_map, block),
            self.guesses.gap_bytes,
        )

    def _neighbours(self, wanted: set[int], gap: range) -> set[int]:
        """The blocks behind a miss that its request takes along: those that a trace names, where one is followed."""
        behind = self._block_map.start(max(wanted) + 1)
        if not self._following:
            gap_bytes = self._block_map.start(gap.stop) - self._block_map.start(gap.start)
            reach_bytes = max(self.guesses.reach_bytes - gap_bytes, self._limits.guesses.least_bytes)
            return set(span(self._block_map, behind, reach_bytes))
        named = self.tracing.names if self.tracing is not None else lambda index: False
        return set(takewhile(named, span(self._block_map, behind, self._limits.demand_bytes)))

    # --- ahead of readers -------------------------------------------------------------------------

    def read_ahead(self, read: ByteRange, blocks: range, *, waits: bool) -> None:
        """What a sequential reader comes to next: from the disk into memory, or from the origin.

        The origin is asked only while reads meet blocks that were not there before: a second start reads what the
        first one read, and guesses nothing new.

        Args:
            read: what is read now, in these blocks.
            waits: whether it has to wait for some of them.
        """
        fetching = self._proved(blocks) or waits
        ahead = self._readahead.advance(read, self._image.size_bytes) if self._image.ranges else None
        if ahead is None:
            return
        following = span(self._block_map, ahead.start, ahead.length)
        self._blocks.preload(following)
        if fetching and not self._following:
            self.prefetch(ahead)
            return
        missing = next(filter(self.is_missing, following), None)
        if missing is not None:
            self._readahead.retreat(ahead, self._block_map.start(missing))

    def _proved(self, blocks: range) -> bool:
        """Whether a read comes, for the first time, to blocks that were asked for before any read needed them."""
        used = self._unproved.intersection(blocks) if self._unproved else None
        if not used:
            return False
        self._unproved -= used
        return True

    def _note_unproved(self, blocks: Iterable[int]) -> None:
        blocks = list(blocks)
        self._unproved.update(blocks)
        if not self._following:  # what a trace names is no guess of ours
            self.guesses.add(blocks)

    def prefetch(self, wanted: ByteRange) -> list[Flight]:
        """Start what is missing of a range in the background; returns the flights started."""
        flights = self.prefetch_blocks(span(self._block_map, wanted.start, wanted.length))
        self._counters.readahead_blocks += len(flights)
        return flights

    def prefetch_blocks(self, indices: Iterable[int]) -> list[Flight]:
        """Start what is missing of these blocks in the background, in few requests; the flights started."""
        missing = self.missing(indices)
        if not missing or not self._image.ranges or self._fetcher.contact.offline:
            return []
        limit_bytes = self._limits.background_bytes
        runs = plan_extents(self._block_map, missing, lambda index: True, max_bytes=limit_bytes)
        flights = self._start_runs(runs, missing, demand=False)
        self._note_unproved(flight.index for flight in flights)
        return flights

    # --- flights ----------------------------------------------------------------------------------

    def _start_runs(self, runs: list[range], asked: Sequence[int], *, demand: bool) -> list[Flight]:
        """What is asked for first is needed first, and at the beginning of a trace that is the end of the image."""
        place = {index: place for place, index in enumerate(asked)}
        runs.sort(key=lambda run: min(place.get(index, len(place)) for index in run))
        start = self._fetcher.start
        return [
            flight
            for run in runs
            for flight in start(self._image, self._block_map, run, self._sink, demand=demand)
        ]

    def start_bulk(self, blocks: range, sink: Sink) -> list[Flight]:
        """Start one extent of missing neighbours that nobody waits for."""
        if not self._image.ranges:
            return self._start_whole(blocks, sink)
        return self._fetcher.start(self._image, self._block_map, blocks, sink, demand=False, bulk=True)

    def _start_whole(self, indices: Iterable[int], sink: Sink) -> list[Flight]:
        """An origin without ranges sends everything: one flight for each block that is not there yet."""
        wanted = set(indices)
        missing = [i for i in range(self._block_map.count) if i in wanted or self.is_missing(i)]
        return self._fetcher.start(self._image, self._block_map, missing, sink, demand=True)

    @staticmethod
    def _by_block(flights: Iterable[Flight]) -> dict[int, Flight]:
        return {flight.index: flight for flight in flights}
