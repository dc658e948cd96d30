"""One image being read: its blocks from the cache or by flights, with readahead, and the starts it is read in.

A read is answered exactly, or not at all: `min(size, EOF - offset)` bytes or an error. What the cache has of the
image is `image.blocks`; what it lacks is asked for by `image.asking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.block_table import BlockTable
from lazysif.core.block_map import BlockMap, length, span
from lazysif.core.follow import Ask
from lazysif.errors import LazysifError, SourceError
from lazysif.fetch.fetcher import Fetcher
from lazysif.fetch.flights import Flight
from lazysif.image.asking import Asking, ExtentLimits
from lazysif.image.blocks import ImageBlocks
from lazysif.image.tracing import ImageTracing
from lazysif.model import Buffer, ByteRange, Image
from lazysif.telemetry import Counters

_BULK_ROOM = 8 << 20
"""Bytes that must be free of the write queue before bulk goes on: all of its requests may land a piece at once, and
demand a block each, and none is to be dropped."""

_PRELOADED_AT_ONCE = 8
"""Frames that one job of the cache's threads reads ahead: a reader that needs one of them waits for all."""


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
        self.blocks = ImageBlocks(block_map, table, cache, counters)
        self.asking = Asking(image, self.blocks, fetcher, counters, self, limits or ExtentLimits())
        self._counters = counters
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
        if index in self.asking.guesses.open:
            self.asking.guesses.read((index,))
        if stop == self.block_map.start(index + 1):  # a sequential reader passes here, and few of the others
            self.asking.read_ahead(ByteRange(offset, stop), range(index, index + 1), waits=False)
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
        data = self.blocks.in_memory(index)
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
        found = await self.blocks.load(blocks)
        lacking = [i for i in blocks if i not in found]
        self.asking.guesses.read(blocks)
        self._touch(blocks, lacking)
        flights = self.asking.join_or_start(lacking)
        self.follow()
        self.asking.read_ahead(ByteRange(offset, stop), blocks, waits=bool(flights))
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
        found = await self.blocks.load(blocks)
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

    # --- starts -----------------------------------------------------------------------------------

    def trace_with(self, tracing: ImageTracing) -> None:
        """Record and follow the starts of this image from now on."""
        self.tracing = self.asking.tracing = tracing

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
        ask = self.tracing.ask(self.asking.is_missing)
        if ask:
            self._ask_for(ask)
        if self.tracing.left_a_path():
            self._give_unread()

    def _ask_for(self, ask: Ask) -> None:
        for batch in ask.fetch:
            self._counters.prefetch_blocks += len(batch)
            self.asking.prefetch_blocks(batch)
        for start in range(0, len(ask.load), _PRELOADED_AT_ONCE):
            self.blocks.preload(ask.load[start : start + _PRELOADED_AT_ONCE], self._give_ahead)

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
            if self.blocks.in_memory(index) is not None:
                self._give_ahead(index)

    def _give_ahead(self, index: int) -> None:
        """A block is in memory: the kernel gets it now where a trace says that the job will read it."""
        if self._give_pages is None or self.refusal is not None or self.tracing is None:
            return
        if not self.tracing.give(index):
            return
        if self._give_pages(self.block_map.start(index), length(self.block_map, index)):
            self._counters.given_blocks += 1

    # --- bulk -------------------------------------------------------------------------------------

    def bring(self, blocks: range, landed: Callable[[int], None]) -> list[Flight]:
        """Start one extent of missing neighbours that nobody waits for.

        Args: landed: told the bytes of each block that came.
        """
        return self.asking.start_bulk(blocks, _BulkSink(self, landed))

    # --- the sink of this image's flights ---------------------------------------------------------

    def accept(self, index: int, data: Buffer) -> None:
        """A block has come (`fetch.extent.Sink`)."""
        if self.refusal is not None:
            return
        self.blocks.put(index, data)
        self._give_ahead(index)

    async def room(self) -> None:
        await self.blocks.room()

    # --- the image as a whole ---------------------------------------------------------------------

    def batches(self, size_bytes: int) -> Iterator[range]:
        """All blocks in order, in runs of about that size."""
        start = 0
        while start < self.block_map.count:
            stop = span(self.block_map, self.block_map.start(start), size_bytes).stop
            yield range(start, stop)
            start = stop

    def refuse(self, error: LazysifError) -> None:
        """Forget all blocks, and fail reads from now on."""
        self.refusal = error
        self.last_error = str(error)
        self.blocks.forget_all()

    def keep(self, start: int, data: bytes) -> None:
        """Take bytes that came with the probe: the whole blocks among them."""
        view = memoryview(data)
        for index in span(self.block_map, start, len(data)):
            lower, upper = self.block_map.start(index), self.block_map.start(index + 1)
            if lower >= start and upper <= start + len(data) and self.asking.is_missing(index):
                self.accept(index, bytes(view[lower - start : upper - start]))


@dataclass(frozen=True, slots=True)
class _BulkSink:
    """Where bulk goes (`fetch.extent.Sink`)."""

    opened: OpenImage
    landed: Callable[[int], None]

    def accept(self, index: int, data: Buffer) -> None:
        if self.opened.refusal is None:
            self.opened.blocks.put(index, data, unread=True)
        self.landed(len(data))

    async def room(self) -> None:
        await self.opened.blocks.room(_BULK_ROOM)
