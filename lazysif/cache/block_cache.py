"""The block cache as the rest of the house sees it: memory tier, block store and block tables behind one
front.

A failure of the disk is a miss and a counter, never an error: `lookup`, `load` and `put` do not raise,
`load` has a deadline, and with a sick disk all is served uncached within the same bounds of memory.

All state here, and in the parts that `BlockCache` joins, belongs to the trio thread; the threads of `lane` get
values and give values back. Between two checkpoints nothing is half done. Which task does what:

- a reader in `load` submits one job for all that memory lacks and waits for it (`disk_reader`).
- whoever calls `put`, `pin`, `flush` or `repair` leaves it in the backlog (`backlog`), as readers do with what
  they find damaged.
- `run` is the only task that takes from the backlog, and that uses the writer thread (`disk_writer`).
- each of them, when the disk fails it, notes that in `disk_access`, which lets go of what waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from lazysif.cache.backlog import Backlog, StoreCall
from lazysif.cache.block_table import BlockTable
from lazysif.cache.block_tables import BlockTables
from lazysif.cache.cache_settings import CacheSettings
from lazysif.cache.disk_access import DiskAccess
from lazysif.cache.disk_reader import Came, DiskReader
from lazysif.cache.disk_writer import DiskWriter
from lazysif.cache.lane import ThreadLane
from lazysif.cache.memory import MemoryTier
from lazysif.cache.store import FrameStore
from lazysif.cache.write_behind import WriteQueue
from lazysif.cache.writer_thread import WriterThread
from lazysif.core.disk_health import DiskState
from lazysif.model import Buffer, Digest, ImageId
from lazysif.telemetry import Counters


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What `status` shows; of the last batch or tick, so that asking never waits for the disk."""

    used_bytes: int
    limit_bytes: int
    free_bytes: int
    state: DiskState
    trouble: str
    """Why the state is not normal, "" if it is."""


class BlockCache:
    """digest → content, from memory and disk. Owns the threads' lives, and joins the parts.

    Args:
        settings: bounds and times.
        counters: `cache_*`, `frames_*` and `table_records_refused` are counted here; hits and misses by
            the caller.
    """

    def __init__(self, settings: CacheSettings, counters: Counters) -> None:
        self.settings = settings
        self.tables = BlockTables(settings.directory, counters)
        self._counters = counters
        self._memory = MemoryTier(settings.memory_bytes)
        self._queue = WriteQueue(settings.queue_bytes)
        self._store = store = FrameStore(settings.directory, touch_after_s=settings.touch_after_s)
        self._backlog = backlog = Backlog(self._queue, settings.gather_s)
        self._access = access = DiskAccess(settings, backlog, counters)
        self._reading = reading = ThreadLane("cache-reader", 2, store.close_thread)
        self._writing = ThreadLane("cache-writer", 1, store.close)
        self._reader = DiskReader(
            store, reading, self._memory, backlog, access, counters, timeout_s=settings.read_timeout_s
        )
        thread = WriterThread(self._writing, settings.directory, store, access, counters)
        self._writer = DiskWriter(settings, store, self.tables, thread, reading, backlog, access, counters)
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        state = self._access.health.state
        return f"<BlockCache {self.settings.directory} {state} {self._memory!r} {self._queue!r}>"

    # --- reading ----------------------------------------------------------------------------------

    def lookup(self, digest: Digest) -> Buffer | None:
        """The content, if it is in memory. Takes under a microsecond."""
        return self._memory.get(digest) or self._queue.get(digest)

    async def load(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        """What memory and disk have of these blocks, checked; one thread hop for all that is not in memory.

        Never raises and never waits longer than `read_timeout_s`: what is missing, damaged or cannot be
        read is absent. Cancelling one reader leaves the others' reading alone.
        """
        found = self._in_memory(digests)
        found.update(await self._reader.load([d for d in digests if d not in found]))
        return found

    def preload(self, digests: Iterable[Digest], came: Came | None = None) -> None:
        """Bring frames from disk into memory ahead of their readers, without waiting.

        Args: came: told each block when it is in memory; not those that a reader waits for already.
        """
        missing = []
        for digest in digests:
            data = self.lookup(digest)
            if data is None:
                missing.append(digest)
            elif came is not None:
                came(digest, data)
        self._reader.preload(missing, came)

    async def peek(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        """As `load`, and what is read from disk is not kept in memory: for who reads all of an image once."""
        found = self._in_memory(digests)
        found.update(await self._reader.read(d for d in digests if d not in found))
        return found

    async def absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of the blocks that neither wait to be written nor are on disk; none where it cannot be asked."""
        return await self._reader.absent(digests)

    @property
    def readable(self) -> bool:
        """Whether the disk is asked at all: where not, a miss tells nothing about what is cached."""
        return self._access.readable

    async def open_table(self, image_id: ImageId, count: int) -> BlockTable:
        """The block table of an image, read in a thread; empty where the disk does not give it in time.

        Raises:
            ValueError: not an image id.
        """
        table = self.tables.opened(image_id, count)
        if table is not None:
            return table
        records = await self._reader.read_table(self.tables.path(image_id, count), image_id, count)
        return self.tables.adopt(image_id, count, records)

    def _in_memory(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        return {d: data for d in digests if (data := self.lookup(d)) is not None}

    # --- writing ----------------------------------------------------------------------------------

    def put(self, digest: Digest, data: Buffer, pinned: bool = False, *, unread: bool = False) -> None:
        """Keep a block whose content is known to have this digest: at once in memory, soon on disk.

        With a full queue or a sick disk it stays in memory only, and is counted as a dropped write. One that is
        `unread` (nobody waits for it) drives nothing out of memory.
        """
        if not unread:
            data = _compact(data)
            self._memory.put(digest, data)
        takes = not self._access.closing and self._access.health.may_write
        if not takes or not self._backlog.put(digest, data, pinned, unread=unread):
            self._counters.cache_dropped_writes += 1

    async def wait_room(self, size_bytes: int = 1) -> None:
        """Wait until the queue takes `size_bytes` more; not at all where it is empty or the disk is sick.

        No checkpoint where there is room: see `Fetcher._land_blocks`.
        """
        while self.healthy and not self._queue.fits(size_bytes):
            await self._backlog.wait_change()

    async def flush(self) -> None:
        """Wait until what has been put so far is written, tables included, or the disk is sick."""
        last = self._queue.newest()
        while self.healthy and last is not None and self.waits(last):
            await self._backlog.wait_change()
        if self.healthy:
            await self._backlog.flush()

    def pin(self, digests: Iterable[Digest]) -> None:
        """Let other frames be evicted before these; takes effect with the next tick."""
        self._backlog.pin(digests)

    # --- what a check needs -------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether the disk takes writes, and the service runs."""
        return self._access.writable

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the disk's frames."""
        return self._reader.busy

    def waits(self, digest: Digest) -> bool:
        """Whether a frame is about to be written; may be called from any thread."""
        return self._backlog.waits(digest)

    async def repair(self, call: StoreCall) -> None:
        """Have a call made in the writer thread between two batches; its failure is noted as the disk's."""
        await self._backlog.repair(call)

    # --- life -------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store and serve it until `aclose()`; to be started once, with `nursery.start`.

        A disk that is sick from the beginning does not keep the daemon from starting.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
        """
        self._reading.start()
        self._writing.start()
        try:
            await self._writer.open()
            self._access.started = True
            task_status.started()
            with self._scope:
                await self._writer.serve()
        finally:
            self._access.closing = True
            self._backlog.end()
            self._reading.close()
            self._writing.close()
            self._ended.set()

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """Write what waits and close the files, giving up after `timeout_s`; later reads are misses."""
        self._access.closing = True
        self._backlog.wake()
        if not self._access.started:
            return
        with trio.move_on_after(timeout_s):
            await self._ended.wait()
            await self._reading.join()
            await self._writing.join()
        self._scope.cancel()

    def status(self) -> CacheStatus:
        """What there is to show; may be called from any thread."""
        state = self._access.health.state
        trouble = self._access.health.last_trouble if state is not DiskState.NORMAL else None
        return CacheStatus(
            used_bytes=self._store.used_bytes,
            limit_bytes=self.settings.limit_bytes,
            free_bytes=self._writer.free_bytes,
            state=state,
            trouble=str(trouble or ""),
        )


def _compact(data: Buffer) -> Buffer:
    """A block that is a small part of a large answer is copied: keeping it would keep the whole answer.

    128 KiB take 10 µs.
    """
    if isinstance(data, memoryview) and memoryview(data.obj).nbytes > 2 * len(data):
        return bytes(data)
    return data
