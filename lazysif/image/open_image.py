"""One image being read: its blocks from the cache or by flights, with readahead.

A read is answered exactly, or not at all: `min(size, EOF - offset)` bytes or an error. The block table says which
digest a block has, the cache has the bytes of a digest, and what neither has is joined to a flight or started as
one. Between the last look at the flights and their start lies no checkpoint, so no block is fetched twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import trio
from blake3 import blake3

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.block_table import BlockTable
from lazysif.core.block_map import BlockMap, length, span
from lazysif.core.follow import Ask
from lazysif.core.guesses import Guesses, GuessLimits, gap_before
from lazysif.core.plan import plan_extents
from lazysif.core.readahead import Readahead
from lazysif.errors import LazysifError, SourceError
from lazysif.fetch.fetcher import Fetcher, Sink
from lazysif.fetch.flights import Flight
from lazysif.image.tracing import ImageTracing
from lazysif.model import Buffer, ByteRange, Digest, Image
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_BULK_ROOM = 8 << 20
"""Bytes that must be free of the write queue before bulk goes on: all of its requests may land a piece at once, and
demand a block each, and none is to be dropped."""

_PRELOADED_AT_ONCE = 8
"""Frames that one job of the cache's threads reads ahead: a reader that needs one of them waits for all."""


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


class OpenImage:
    """Reads of one image. Lives as long as the kernel or a reader holds it; makes nothing that must be saved."""

    def __init__(
        self,
        image: Image,
        block_map: BlockMap,
        table: BlockTable,
        cache: BlockCache,
        fetcher: Fetcher,
        counters: Counters,
        limits: ExtentLimits | None = None,
    ) -> None:
        self.image = image
        self.block_map = block_map
        self.last_error = ""
        self._cache = cache
        self._fetcher = fetcher
        self._counters = counters
        self._limits = limits or ExtentLimits()
        self._table = table
        self._readahead = Readahead()
        self._pinned: frozenset[int] = frozenset()
        self._guessed: set[int] = set()
        self._guesses = Guesses(lambda block: length(self.block_map, block), self._limits.guesses)
        self.verdict = ""
        """Of `image.verify`: "" where nothing tells what the whole image must be."""
        self.refusal: LazysifError | None = None
        self.tracing: ImageTracing | None = None
        """Set where starts of this image are recorded and followed."""
        self._give_pages: Callable[[int, int], bool] | None = None

    # --- answers ----------------------------------------------------------------------------------

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """The answer if it lies in one block in memory, without a checkpoint; else None."""
        stop = min(offset + size, self.image.size_bytes)
        if offset >= stop:
            return b""
        index = self.block_map.index_at(offset)
        data = self._in_one_block(index, offset, stop)
        if data is None:
            return None
        self._counters.hits += 1
        self._counters.memory_hits += 1
        tracing = self.tracing
        if tracing is not None and tracing.touched is not None and index not in tracing.touched:
            self._touch((index,), ())
            self.follow()
        if index in self._guesses.open:
            self._guesses.read((index,))
        if stop == self.block_map.start(index + 1):  # a sequential reader passes here, and few of the others
            self._read_ahead(ByteRange(offset, stop), self._guess_proved(range(index, index + 1)))
        return data

    def glance(self, offset: int, size: int) -> Buffer | None:
        """As `read_now`, for who reads ahead of the job: it is no touch, and counts for nothing."""
        stop = min(offset + size, self.image.size_bytes)
        if offset >= stop:
            return None
        return self._in_one_block(self.block_map.index_at(offset), offset, stop)

    def _in_one_block(self, index: int, offset: int, stop: int) -> Buffer | None:
        """Bytes `[offset, stop)` of an image if they lie in this block, and it in memory."""
        if stop > self.block_map.start(index + 1):
            return None
        data = self._in_memory(index)
        if data is None:
            return None
        start = self.block_map.start(index)
        return memoryview(data)[offset - start : stop - start]

    async def read(self, offset: int, size: int) -> Buffer:
        """Bytes `[offset, offset + size)` cut at the end of the image, never shorter.

        Raises:
            ImageChanged: a block that is not cached is gone at the origin.
            AccessDenied, SourceError: the origin as it answers, after retries.
        """
        now = self.read_now(offset, size)
        if now is not None:
            return now
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)
        stop = min(offset + size, self.image.size_bytes)
        blocks = span(self.block_map, offset, size)
        found = await self._from_cache(blocks)
        lacking = [i for i in blocks if i not in found]
        self._guesses.read(blocks)
        self._touch(blocks, lacking)
        flights = self._join_or_start(lacking)
        self.follow()
        self._read_ahead(ByteRange(offset, stop), bool(flights) | self._guess_proved(blocks))
        try:
            for index, flight in flights:
                found[index] = flight if isinstance(flight, bytes | memoryview) else await flight.wait()
        except LazysifError as error:
            self.last_error = str(error)
            raise
        return self._joined(blocks, found, ByteRange(offset, stop))

    async def read_cached(self, offset: int, size: int) -> Buffer | None:
        """As `read`, of what memory and disk have; None if a block is missing. Asks nobody."""
        now = self.read_now(offset, size)
        if now is not None:
            return now
        blocks = span(self.block_map, offset, size)
        found = await self._from_cache(blocks)
        if len(found) < len(blocks):
            return None
        return self._joined(blocks, found, ByteRange(offset, min(offset + size, self.image.size_bytes)))

    def _joined(self, blocks: range, found: dict[int, Buffer], asked: ByteRange) -> Buffer:
        pieces = []
        for index in blocks:
            start = self.block_map.start(index)
            data = memoryview(found[index])
            pieces.append(data[max(asked.start - start, 0) : asked.stop - start])
        answer = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(answer) != asked.length:
            # the kernel takes a short answer for a shrunk file, and a loop device takes it for zeros
            raise SourceError("internal error: the pieces do not make up the read", image=self.image.name)
        return answer

    # --- cache ------------------------------------------------------------------------------------

    def _in_memory(self, index: int) -> Buffer | None:
        digest = self._table.get(index)
        return self._cache.lookup(digest) if digest is not None else None

    async def _from_cache(self, blocks: range) -> dict[int, Buffer]:
        """What memory and disk have of these blocks; frames that are gone are struck off the table."""
        found: dict[int, Buffer] = {}
        on_disk: dict[int, Digest] = {}
        for index in blocks:
            digest = self._table.get(index)
            if digest is None:
                continue
            data = self._cache.lookup(digest)
            if data is not None:
                found[index] = data
                self._counters.memory_hits += 1
            else:
                on_disk[index] = digest
        if on_disk:
            loaded = await self._cache.load(list(on_disk.values()))
            for index, digest in on_disk.items():
                data = loaded.get(digest)
                if data is None or len(data) != length(self.block_map, index):
                    if self._cache.readable and self._table.get(index) == digest:
                        self._table.forget(index)
                else:
                    found[index] = data
        self._counters.hits += len(found)
        return found

    # --- fetching ---------------------------------------------------------------------------------

    def _is_missing(self, index: int) -> bool:
        """Neither cached as far as the table knows, nor on its way."""
        return (
            self._table.get(index) is None and self._fetcher.flight(self.image, index, demand=False) is None
        )

    def _join_or_start(self, indices: Iterable[int]) -> list[tuple[int, Flight | Buffer]]:
        """For each block its flight, joined or just started, or its bytes if they came in the meantime."""
        sources: list[tuple[int, Flight | Buffer]] = []
        to_start: list[int] = []
        for index in indices:
            flight = self._fetcher.flight(self.image, index, demand=True)
            landed = self._in_memory(index) if flight is None else None
            if flight is not None:
                self._counters.joins += 1
                sources.append((index, flight))
            elif landed is not None:
                self._counters.hits += 1
                sources.append((index, landed))
            else:
                self._counters.misses += 1
                to_start.append(index)
        started = self._start(to_start, demand=True)
        sources.extend((index, started[index]) for index in to_start)
        return sources

    def _start(self, indices: Iterable[int], *, demand: bool) -> dict[int, Flight]:
        """Start extents that cover these blocks, none of them under way. Returns all their flights by block."""
        if not self.image.ranges:
            return self._start_whole(indices)
        limits = self._limits
        place = {index: place for place, index in enumerate(indices)}
        wanted = set(place)
        gap = self._gap(wanted) if demand else range(0)
        guessed_bytes = 0 if self._following else limits.guesses.most_bytes
        runs = plan_extents(
            self.block_map,
            wanted | self._neighbours(wanted, gap) if demand else wanted,
            lambda index: index in wanted or self._is_missing(index),
            max_bytes=limits.demand_bytes + guessed_bytes if demand else limits.background_bytes,
            gap_bytes=limits.gap_bytes if demand else 0,
        )
        # what is asked for first is needed first, and at the beginning of a trace that is the end of the image
        runs.sort(key=lambda run: min(place.get(index, len(place)) for index in run))
        flights: dict[int, Flight] = {}
        for run in runs:
            for flight in self._fetcher.start(self.image, self.block_map, run, self, demand=demand):
                flights[flight.index] = flight
        guessed = flights.keys() - wanted if demand else flights
        self._guessed.update(guessed)
        if not self._following:  # what a trace names is no guess of ours
            self._guesses.add(guessed)
        if demand:
            self._guesses.missed(wanted)
            self.prefetch_blocks(gap)  # a request of its own: in one, who waits would wait for the gap, too
        return flights

    def _gap(self, wanted: set[int]) -> range:
        """The blocks before a miss that are guessed, up to what is there already."""
        if not wanted or self._following:
            return range(0)
        return gap_before(
            min(wanted),
            self._is_missing,
            lambda block: length(self.block_map, block),
            self._guesses.gap_bytes,
        )

    def _neighbours(self, wanted: set[int], gap: range) -> set[int]:
        """The blocks behind a miss that its request takes along: those that a trace names, where one is followed."""
        if not wanted:
            return set()
        behind = self.block_map.start(max(wanted) + 1)
        if not self._following:
            gap_bytes = self.block_map.start(gap.stop) - self.block_map.start(gap.start)
            reach_bytes = max(self._guesses.reach_bytes - gap_bytes, self._limits.guesses.least_bytes)
            return set(span(self.block_map, behind, reach_bytes))
        named = self.tracing.names if self.tracing is not None else lambda index: False
        return set(takewhile(named, span(self.block_map, behind, self._limits.demand_bytes)))

    def _start_whole(self, indices: Iterable[int], sink: Sink | None = None) -> dict[int, Flight]:
        """An origin without ranges sends everything: one flight for each block that is not there yet."""
        wanted = set(indices)
        if not wanted:
            return {}
        missing = [i for i in range(self.block_map.count) if i in wanted or self._is_missing(i)]
        flights = self._fetcher.start(self.image, self.block_map, missing, sink or self, demand=True)
        return {flight.index: flight for flight in flights}

    def _guess_proved(self, blocks: range) -> bool:
        """Whether a read comes to blocks that were fetched on a guess, for the first time."""
        used = self._guessed.intersection(blocks) if self._guessed else None
        if not used:
            return False
        self._guessed -= used
        return True

    def _read_ahead(self, read: ByteRange, fetching: bool) -> None:
        """What a sequential reader comes to next: from the disk into memory, or from the origin.

        The origin is asked only while reads meet blocks that were not there before (`fetching`): a second start
        reads what the first one read, and guesses nothing new.
        """
        ahead = self._readahead.advance(read, self.image.size_bytes) if self.image.ranges else None
        if ahead is None:
            return
        blocks = span(self.block_map, ahead.start, ahead.length)
        known = (self._table.get(i) for i in blocks)
        self._cache.preload([digest for digest in known if digest is not None])
        if fetching and not self._following:
            self.prefetch(ahead)
            return
        missing = next((i for i in blocks if self._is_missing(i)), None)
        if missing is not None:
            self._readahead.retreat(ahead, self.block_map.start(missing))

    def prefetch(self, wanted: ByteRange) -> list[Flight]:
        """Start what is missing of a range in the background; returns the flights started."""
        blocks = span(self.block_map, wanted.start, wanted.length)
        flights = self.prefetch_blocks(blocks)
        self._counters.readahead_blocks += len(flights)
        return flights

    # --- starts -----------------------------------------------------------------------------------

    @property
    def _following(self) -> bool:
        return self.tracing is not None and self.tracing.following

    def _touch(self, blocks: Sequence[int], lacking: Sequence[int]) -> None:
        """Tell the recorder and the follower of a read; `lacking` are those that it has to wait for."""
        if self.tracing is None:
            return
        now_s = trio.current_time()
        for index in blocks:
            if self.tracing.touch(index, now_s, late=index in lacking):
                self._counters.prefetch_late += 1

    def follow(self) -> None:
        """Bring what the trace of earlier starts names next: from the origin behind demand, or from disk."""
        if self.tracing is None:
            return
        ask = self.tracing.ask(self._is_missing)
        if ask:
            self._ask_for(ask)
        if self.tracing.left_a_path():
            self._give_unread()

    def _ask_for(self, ask: Ask) -> None:
        for batch in ask.fetch:
            self._counters.prefetch_blocks += len(batch)
            self.prefetch_blocks(batch)
        blocks = {digest: i for i in ask.load if (digest := self._table.get(i)) is not None}
        digests = list(blocks)
        for start in range(0, len(digests), _PRELOADED_AT_ONCE):
            self._cache.preload(
                digests[start : start + _PRELOADED_AT_ONCE],
                lambda digest, _: self._give_ahead(blocks[digest]),
            )

    def give_to(self, give_pages: Callable[[int, int], bool] | None) -> None:
        """What has the kernel read bytes at an offset soon, while they lie in memory, and says whether it will; None
        once the kernel has closed the image. Apptainer opens it several times: what came in between is given now."""
        self._give_pages = give_pages
        self._give_unread()

    def _give_unread(self) -> None:
        """Offer again what came when the kernel could not be given it: the image was closed, or its need in doubt."""
        if self._give_pages is None or self.tracing is None:
            return
        for index in self.tracing.unread():
            if self._in_memory(index) is not None:
                self._give_ahead(index)

    def _give_ahead(self, index: int) -> None:
        """A block is in memory: the kernel gets it now where a trace says that the job will read it."""
        if self._give_pages is None or self.refusal is not None or self.tracing is None:
            return
        if not self.tracing.give(index):
            return
        if self._give_pages(self.block_map.start(index), length(self.block_map, index)):
            self._counters.given_blocks += 1

    def prefetch_blocks(self, indices: Iterable[int]) -> list[Flight]:
        """Start what is missing of these blocks in the background, in few requests; the flights started."""
        missing = [i for i in indices if self._is_missing(i)]
        if not missing or not self.image.ranges or self._fetcher.contact.offline:
            return []
        return list(self._start(missing, demand=False).values())

    # --- bulk -------------------------------------------------------------------------------------

    async def lacking(self, blocks: Iterable[int]) -> list[int]:
        """Those of the blocks that are not cached, in order; the disk is asked, and what it lost is struck off.

        Blocks on their way are among them.
        """
        known = {i: digest for i in blocks if (digest := self._table.get(i)) is not None}
        gone = await self._cache.absent(list(known.values()))
        for index, digest in known.items():
            if digest in gone and self._table.get(index) == digest:
                self._table.forget(index)
        return [i for i in blocks if self._table.get(i) is None]

    def missing(self, blocks: Iterable[int]) -> list[int]:
        """Those of the blocks that are neither cached as far as the table knows, nor on their way."""
        return [i for i in blocks if self._is_missing(i)]

    def under_way(self, blocks: Iterable[int]) -> list[Flight]:
        """The flights that bring some of these blocks, whoever asked for them."""
        flights = (self._fetcher.flight(self.image, index, demand=False) for index in blocks)
        return [flight for flight in flights if flight is not None]

    def bring(self, blocks: range, landed: Callable[[int], None]) -> list[Flight]:
        """Start one extent of missing neighbours that nobody waits for.

        Args: landed: told the bytes of each block that came.
        """
        sink = _BulkSink(self, landed)
        if not self.image.ranges:
            return list(self._start_whole(blocks, sink).values())
        return self._fetcher.start(self.image, self.block_map, blocks, sink, demand=False, bulk=True)

    def accept_unread(self, index: int, data: Buffer) -> None:
        """As `accept`, for a block that nobody reads soon: it drives nothing out of memory."""
        if self.refusal is not None:
            return
        digest = Digest(blake3(data).digest())
        self._cache.put(digest, data, pinned=index in self._pinned, unread=True)
        self._table.set(index, digest)

    # --- the sink of this image's flights ---------------------------------------------------------

    def accept(self, index: int, data: Buffer) -> None:
        """A block has come: its digest goes into the table, its bytes to the cache (`fetch.Sink`)."""
        if self.refusal is not None:
            return
        digest = Digest(blake3(data).digest())
        self._cache.put(digest, data, pinned=index in self._pinned)
        self._table.set(index, digest)
        self._give_ahead(index)

    async def room(self, size_bytes: int = 1) -> None:
        await self._cache.wait_room(size_bytes)

    # --- the image as a whole ---------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every block has come; some may have gone again to make room."""
        return self._table.known == self.block_map.count

    def batches(self, size_bytes: int) -> Iterator[range]:
        """All blocks in order, in runs of about that size."""
        start = 0
        while start < self.block_map.count:
            stop = span(self.block_map, self.block_map.start(start), size_bytes).stop
            yield range(start, stop)
            start = stop

    async def peek(self, blocks: range) -> list[Buffer] | None:
        """The content of these blocks from memory or disk, leaving memory as it is; None if one is missing."""
        digests = [digest for digest in map(self._table.get, blocks) if digest is not None]
        found = await self._cache.peek(digests)
        if len(digests) < len(blocks) or any(digest not in found for digest in digests):
            return None
        return [found[digest] for digest in digests]

    def refuse(self, error: LazysifError) -> None:
        """Forget all blocks, and fail reads from now on."""
        self.refusal = error
        self.last_error = str(error)
        for index in self._table.known_indices():
            self._table.forget(index)

    # --- pins and figures -------------------------------------------------------------------------

    def pin(self, blocks: Iterable[int]) -> None:
        """Keep these blocks from eviction: those that are here now, and the others when they come."""
        self._pinned = frozenset(blocks)
        known = (self._table.get(i) for i in self._pinned)
        self._cache.pin([digest for digest in known if digest is not None])

    def cached_bytes(self) -> int:
        """Bytes of the blocks whose content is known and, unless evicted since, cached."""
        return sum(length(self.block_map, i) for i in self._table.known_indices())

    def keep(self, start: int, data: bytes) -> None:
        """Take bytes that came with the probe: the whole blocks among them."""
        view = memoryview(data)
        for index in span(self.block_map, start, len(data)):
            lower, upper = self.block_map.start(index), self.block_map.start(index + 1)
            if lower >= start and upper <= start + len(data) and self._is_missing(index):
                self.accept(index, bytes(view[lower - start : upper - start]))


@dataclass(frozen=True, slots=True)
class _BulkSink:
    """Where bulk goes (`fetch.Sink`)."""

    opened: OpenImage
    landed: Callable[[int], None]

    def accept(self, index: int, data: Buffer) -> None:
        self.opened.accept_unread(index, data)
        self.landed(len(data))

    async def room(self) -> None:
        await self.opened.room(_BULK_ROOM)
