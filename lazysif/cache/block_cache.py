"""The block cache as the rest of the house sees it: memory tier, block store and block tables behind one
front.

A failure of the disk is a miss and a counter, never an error: `lookup`, `load` and `put` do not raise,
`load` has a deadline, and with a sick disk all is served uncached within the same bounds of memory.

All state here belongs to the trio thread; the threads of `lane` get values and give values back. Between two
checkpoints nothing is half done. Which task does what:

- a reader in `load` submits one job for all it lacks and waits for it; a second reader of the same block
  joins. The job's end puts the blocks into the memory tier, whoever still waits.
- `run` is the only task that uses the writer thread: batches of new frames, deletions, uses, tables,
  chores, probes.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError
from typing import TypeVar

import trio

from lazysif.cache.block_table import BlockTable, BlockTables, read_records
from lazysif.cache.lane import Job, ThreadLane
from lazysif.cache.memory import MemoryTier
from lazysif.cache.store import FrameStore, ReadResult
from lazysif.cache.trouble import StoreTrouble
from lazysif.cache.write_behind import BatchReport, QueuedBlock, WriteQueue, write_batch, write_tables
from lazysif.core.disk_health import DiskHealth, DiskState, Trouble
from lazysif.errors import LazysifError, LocalDirectoryError
from lazysif.model import Buffer, Digest, ImageId
from lazysif.telemetry import Counters

T = TypeVar("T")
log = logging.getLogger(__name__)

_ASKED_AT_ONCE = 256
"""Rows looked up in one job of a reader thread, which readers wait for: 1 ms."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a block cache needs to know.

    Args:
        directory: of the cache, for this daemon alone.
        limit_bytes: the most that frames and their database may occupy.
        min_free_bytes: free space of the file system that must remain.
        memory_bytes: bound of the memory tier.
        queue_bytes: bound of the blocks that wait to be written; they are in memory beside the memory tier.
        batch_bytes: the most that is written in one transaction.
        tick_s: how often uses and tables are written, and the free space looked at.
        gather_s: how long blocks gather before they are written, while they fill less than 3/4 of `queue_bytes`.
        read_timeout_s: a `load` that takes longer goes on without the disk.
        write_timeout_s: a batch that takes longer counts as trouble of the disk.
        touch_after_s: see `FrameStore`.
        first_pause_s, longest_pause_s: see `DiskHealth`.
    """

    directory: Path
    limit_bytes: int
    min_free_bytes: int = 0
    memory_bytes: int = 48 * 2**20
    queue_bytes: int = 32 * 2**20
    batch_bytes: int = 16 * 2**20
    tick_s: float = 2.0
    gather_s: float = 1.0
    read_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    touch_after_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What `status` shows; of the last batch or tick, so that asking never waits for the disk."""

    used_bytes: int
    limit_bytes: int
    free_bytes: int
    state: DiskState
    trouble: str
    """Why the state is not normal, "" if it is."""


Came = Callable[[Digest, Buffer], None]


class _Load:
    """One batch read under way."""

    def __init__(self, came: Came | None) -> None:
        self.finished = trio.Event()
        self.found: dict[Digest, Buffer] = {}
        self.came = came
        self.late = False


class BlockCache:
    """digest → content, from memory and disk.

    Args:
        settings: bounds and times.
        counters: `cache_*`, `frames_*` and `table_records_refused` are counted here; hits and misses by
            the caller.
    """

    def __init__(self, settings: CacheSettings, counters: Counters) -> None:
        self.settings = settings
        self.tables = BlockTables(settings.directory, counters)
        self._counters = counters
        self._store = FrameStore(settings.directory, touch_after_s=settings.touch_after_s)
        self._health = DiskHealth(
            first_pause_s=settings.first_pause_s, longest_pause_s=settings.longest_pause_s
        )
        self._memory = MemoryTier(settings.memory_bytes)
        self._queue = WriteQueue(settings.queue_bytes)
        self._uses: dict[Digest, bool] = {}
        self._doomed: set[Digest] = set()
        self._loads: dict[Digest, _Load] = {}
        self._reader = ThreadLane("cache-reader", 2, self._store.close_thread)
        self._writer = ThreadLane("cache-writer", 1, self._store.close)
        self._wake = trio.Event()
        self._hurried = False
        """Blocks that gather are to be written now."""
        self._due_at = math.inf
        self._room = trio.Event()
        self._started = False
        self._closing = False
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._free_bytes = 0
        self._suspect: object = None
        self._repairs: deque[tuple[Callable[[FrameStore], None], trio.Event]] = deque()
        self._flushes: list[trio.Event] = []

    def __repr__(self) -> str:
        return f"<BlockCache {self.settings.directory} {self._health.state} {self._memory!r} {self._queue!r}>"

    # --- reading ----------------------------------------------------------------------------------

    def lookup(self, digest: Digest) -> Buffer | None:
        """The content, if it is in memory. Takes under a microsecond."""
        return self._memory.get(digest) or self._queue.get(digest)

    async def load(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        """What memory and disk have of these blocks, checked; one thread hop for all that is not in memory.

        Never raises and never waits longer than `read_timeout_s`: what is missing, damaged or cannot be
        read is absent. Cancelling one reader leaves the others' reading alone.
        """
        found: dict[Digest, Buffer] = {}
        joined: dict[Digest, _Load] = {}
        wanted: list[Digest] = []
        for digest in digests:
            data = self.lookup(digest)
            if data is not None:
                found[digest] = data
            elif digest in self._loads:
                joined[digest] = self._loads[digest]
            elif digest not in self._doomed:
                wanted.append(digest)
        if wanted and self.readable:
            joined.update(dict.fromkeys(wanted, self._start_load(wanted)))
        for load in set(joined.values()):
            await self._wait_for(load)
        found.update((d, load.found[d]) for d, load in joined.items() if d in load.found)
        return found

    def preload(self, digests: Iterable[Digest], came: Came | None = None) -> None:
        """Bring frames from disk into memory ahead of their readers, without waiting.

        Args: came: told each block when it is in memory; not those that a reader waits for already.
        """
        wanted = []
        for digest in digests:
            data = self.lookup(digest)
            if data is not None and came is not None:
                came(digest, data)
            elif data is None and digest not in self._loads and digest not in self._doomed:
                wanted.append(digest)
        if wanted and self.readable:
            self._start_load(wanted, came)

    async def peek(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        """As `load`, and what is read from disk is not kept in memory: for who reads all of an image once."""
        found = {d: data for d in digests if (data := self.lookup(d)) is not None}
        wanted = list({d for d in digests if d not in found and d not in self._doomed})
        if wanted and self.readable:
            with trio.move_on_after(self.settings.read_timeout_s):
                result = await self._reader.run(lambda: self._store.read_many(wanted))
                self._note_read(result)
                found.update(result.found)
        return found

    async def absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of the blocks that neither wait to be written nor are on disk; none where it cannot be asked."""
        absent: set[Digest] = set()
        for start in range(0, len(digests), _ASKED_AT_ONCE):
            asked = [d for d in digests[start : start + _ASKED_AT_ONCE] if self._queue.get(d) is None]
            if not self.readable:
                return set()
            call = partial(self._store.absent, asked)
            with trio.move_on_after(self.settings.read_timeout_s):
                absent.update(d for d in await self._reader.run(call) if self._queue.get(d) is None)
        return absent

    @property
    def readable(self) -> bool:
        """Whether the disk is asked at all: where not, a miss tells nothing about what is cached."""
        return self._started and not self._closing and self._health.may_read

    async def open_table(self, image_id: ImageId, count: int) -> BlockTable:
        """The block table of an image, read in a thread; empty where the disk does not give it in time.

        Raises:
            ValueError: not an image id.
        """
        table = self.tables.opened(image_id, count)
        if table is not None:
            return table
        records: bytearray | None = None
        path = self.tables.path(image_id, count)
        if self._started and self._health.may_read:
            with trio.move_on_after(self.settings.read_timeout_s) as scope:
                records = await self._reader.run(lambda: read_records(path, image_id, count))
            if scope.cancelled_caught:
                self._read_failed(Trouble.SILENCE)
        return self.tables.adopt(image_id, count, records)

    def _start_load(self, digests: Sequence[Digest], came: Came | None = None) -> _Load:
        load = _Load(came)
        self._loads.update(dict.fromkeys(digests, load))
        self._reader.submit(
            lambda: self._store.read_many(digests), lambda job: self._end_load(load, digests, job)
        )
        return load

    async def _wait_for(self, load: _Load) -> None:
        if load.late:
            return
        with trio.move_on_after(self.settings.read_timeout_s):
            await load.finished.wait()
        if not load.finished.is_set() and not load.late:
            load.late = True
            self._read_failed(Trouble.SILENCE)

    def _end_load(self, load: _Load, digests: Sequence[Digest], job: Job[ReadResult]) -> None:
        """On the trio thread, when the job is done: no checkpoint in here."""
        for digest in digests:
            del self._loads[digest]
        try:
            result = job.result()
        except Exception:
            log.exception("reading frames failed in an unforeseen way")
            self._counters.unexpected_errors += 1
            result = ReadResult(trouble=Trouble.DATABASE)
        load.found = result.found
        for digest, data in result.found.items():
            self._memory.put(digest, data)
            if load.came is not None:
                load.came(digest, data)
        self._note_read(result)
        load.finished.set()

    def _note_read(self, result: ReadResult) -> None:
        self._uses.update(result.aged)
        for digest, why in result.damaged.items():
            log.warning("frame %s is deleted and will be fetched again: %s", digest.hex(), why)
        self._counters.frames_quarantined += len(result.damaged)
        self._doomed.update(result.damaged, result.unreadable)
        if result.suspect is not None:
            self._suspect = result.suspect
            self._counters.cache_read_errors += 1
        if result.trouble is not None:
            self._read_failed(result.trouble)
        elif result.found:
            self._health.answered()
        if result.damaged or result.unreadable or result.suspect is not None:
            self._wake.set()

    def _read_failed(self, trouble: Trouble) -> None:
        self._counters.cache_read_errors += 1
        self._failed(trouble)

    # --- writing ----------------------------------------------------------------------------------

    def put(self, digest: Digest, data: Buffer, pinned: bool = False, *, unread: bool = False) -> None:
        """Keep a block whose content is known to have this digest: at once in memory, soon on disk.

        With a full queue or a sick disk it stays in memory only, and is counted as a dropped write. One that is
        `unread` (nobody waits for it) drives nothing out of memory.
        """
        if not unread:
            data = _compact(data)
            self._memory.put(digest, data)
        first = not self._queue.waiting
        if self._closing or not self._health.may_write or not self._queue.put(digest, data, pinned):
            self._counters.cache_dropped_writes += 1
        elif self._queue.used_bytes > self.settings.queue_bytes // 4 * (1 if unread else 3):
            self._hurry()  # unread ones do not gather: no start goes on beside them
        elif first:
            self._wake.set()

    async def wait_room(self, size_bytes: int = 1) -> None:
        """Wait until the queue takes `size_bytes` more; not at all where it is empty or the disk is sick.

        No checkpoint where there is room: see `Fetcher._land_blocks`.
        """
        while (
            self._started
            and not self._closing
            and self._health.may_write
            and not self._queue.fits(size_bytes)
        ):
            self._hurry()
            await self._room.wait()

    async def flush(self) -> None:
        """Wait until what has been put so far is written, tables included, or the disk is sick."""
        last = self._queue.newest()
        while self.healthy and last is not None and self._queue.get(last) is not None:
            self._hurry()
            await self._room.wait()
        if self.healthy:
            done = trio.Event()
            self._flushes.append(done)
            self._wake.set()
            await done.wait()

    def pin(self, digests: Iterable[Digest]) -> None:
        """Let other frames be evicted before these; takes effect with the next tick."""
        for digest in digests:
            if not self._queue.pin(digest):
                self._uses[digest] = True

    # --- what a check needs -------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether the disk takes writes, and the service runs."""
        return self._started and not self._closing and self._health.may_write

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the disk's frames."""
        return bool(self._loads)

    def waits(self, digest: Digest) -> bool:
        """Whether a frame is about to be written; may be called from any thread."""
        return self._queue.get(digest) is not None

    async def repair(self, call: Callable[[FrameStore], None]) -> None:
        """Have a call made in the writer thread between two batches; its failure is noted as the disk's."""
        done = trio.Event()
        self._repairs.append((call, done))
        self._wake.set()
        await done.wait()

    # --- life -------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store and serve it until `aclose()`; to be started once, with `nursery.start`.

        A disk that is sick from the beginning does not keep the daemon from starting.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
        """
        self._reader.start()
        self._writer.start()
        try:
            await self._guarded(self._open, self.settings.read_timeout_s)
            self._started = True
            task_status.started()
            with self._scope:
                await self._serve()
        finally:
            self._closing = True
            self._set_room()
            for flushed in self._take_flushes():
                flushed.set()
            self._reader.close()
            self._writer.close()
            self._ended.set()

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """Write what waits and close the files, giving up after `timeout_s`; later reads are misses."""
        self._closing = True
        self._wake.set()
        if not self._started:
            return
        with trio.move_on_after(timeout_s):
            await self._ended.wait()
            await self._reader.join()
            await self._writer.join()
        self._scope.cancel()

    def status(self) -> CacheStatus:
        """What there is to show; may be called from any thread."""
        state = self._health.state
        trouble = self._health.last_trouble if state is not DiskState.NORMAL else None
        return CacheStatus(
            used_bytes=self._store.used_bytes,
            limit_bytes=self.settings.limit_bytes,
            free_bytes=self._free_bytes,
            state=state,
            trouble=str(trouble or ""),
        )

    def _open(self) -> None:
        """In the writer thread."""
        self._store.open()
        try:
            self.tables.prepare()
            self.tables.delete_unused()
        except OSError as error:
            raise StoreTrouble(Trouble.IO, str(error)) from error

    async def _serve(self) -> None:
        """Blocks gather before they are written, then all of them: a start has the processor to itself meanwhile."""
        next_tick = trio.current_time()
        while True:
            now = trio.current_time()
            last = self._closing
            if self._health.probe_due(now):
                await self._probe()
            flushes = self._take_flushes()
            gathers = now < self._write_due_at(now) < math.inf and not (last or flushes)
            if self._health.may_write and not gathers:
                await self._write_batch(flush_all=last or now >= next_tick or bool(flushes))
            for flushed in flushes:
                flushed.set()
            await self._repair_some()
            if now >= next_tick and not gathers:
                next_tick = trio.current_time() + self.settings.tick_s
            if last and (not self._queue.waiting or not self._health.may_write):
                return
            if self._closing:
                continue  # whoever closed during a batch has given it more to write than that batch took
            # asked anew: trouble may have taken all that waited, and then only the tick asks the disk again
            due_at = self._write_due_at(now)
            with trio.move_on_at(due_at if due_at < math.inf else next_tick):
                await self._wake.wait()
            self._wake = trio.Event()

    def _write_due_at(self, now: float) -> float:
        """When what waits is to be written: `gather_s` after the first of it came; inf where nothing may be."""
        if not self._queue.waiting or not self._health.may_write:
            self._due_at = math.inf
        elif self._hurried:
            self._due_at = now
        elif self._due_at == math.inf:
            self._due_at = now + self.settings.gather_s
        self._hurried = False
        return self._due_at

    def _hurry(self) -> None:
        self._hurried = True
        self._wake.set()

    async def _write_batch(self, *, flush_all: bool) -> None:
        """One round of the writer thread: the next batch, and with `flush_all` what else has gathered."""
        # a batch that is larger than what may be cached is not written at all (`plan_eviction`)
        batch = self._queue.take(min(self.settings.batch_bytes, self.settings.limit_bytes // 8))
        doomed = set(self._doomed)
        suspect, self._suspect = self._suspect, None
        uses: dict[Digest, bool] = {}
        if flush_all:
            uses, self._uses = self._uses, {}
        if not (batch or doomed or uses or suspect is not None or flush_all):
            return
        call = partial(self._write_in_thread, batch, doomed, uses, suspect=suspect, chore=flush_all)
        report = await self._guarded(call, self.settings.write_timeout_s)
        self._queue.done(batch)
        self._set_room()
        if report is None:
            # not `or`: the truth of a diskcache.Cache is its length, which it asks of the database
            self._suspect = suspect if self._suspect is None else self._suspect
            self._counters.cache_dropped_writes += len(batch)
            return
        # Only now: a damaged frame must not be read once more while it is being deleted.
        self._doomed -= doomed
        self._note_written(report)
        if flush_all:
            await self._flush_tables()

    def _write_in_thread(
        self,
        batch: list[QueuedBlock],
        doomed: set[Digest],
        uses: dict[Digest, bool],
        *,
        suspect: object,
        chore: bool,
    ) -> BatchReport:
        if suspect is not None:
            self._store.replace(suspect)
        report = write_batch(
            self._store,
            batch,
            doomed,
            uses,
            limit_bytes=self.settings.limit_bytes,
            floor_bytes=self.settings.min_free_bytes,
        )
        if chore and not batch:
            self._store.do_chore()
        return report

    def _note_written(self, report: BatchReport) -> None:
        self._free_bytes = report.free_bytes
        self._counters.frames_evicted += report.evicted
        self._counters.cache_dropped_writes += report.skipped

    async def _repair_some(self) -> None:
        """With a sick disk, or at the end, they are let go of undone: the next check finds the same again."""
        while self._repairs:
            call, done = self._repairs.popleft()
            if self.healthy:
                await self._guarded(partial(call, self._store), self.settings.write_timeout_s)
            done.set()

    async def _flush_tables(self) -> None:
        jobs = self.tables.take_dirty()
        if not jobs:
            return
        failed = await self._guarded(partial(write_tables, jobs), self.settings.write_timeout_s)
        for job, intact in failed if failed is not None else [(job, False) for job in jobs]:
            job.table.give_back(job, all_records=not intact)
        if failed:
            self._counters.cache_write_errors += 1

    async def _probe(self) -> None:
        """Ask the disk, and the reader threads, whether they are there again.

        All connections are closed first, at one time: SQLite shares one index file among the connections of a
        process, and one that was opened read-only stays so for all of them.
        """

        def close_first() -> bool:
            self._store.disconnect()
            return True

        def attempt() -> bool:
            self._store.probe()
            self.tables.prepare()
            return True

        before = self._health.state
        refusals = (LazysifError, OSError)
        if not await self._guarded(close_first, self.settings.write_timeout_s):
            return
        try:
            await self._reader.everywhere(self._store.close_thread, self.settings.read_timeout_s)
        except BrokenBarrierError:
            self._failed(Trouble.SILENCE)
            return
        if await self._guarded(attempt, self.settings.write_timeout_s, refusals):
            self._health.recovered(trio.current_time())
            log.info("cache directory %s is in use again (was %s)", self.settings.directory, before)

    async def _guarded(
        self, call: Callable[[], T], timeout_s: float, refusals: tuple[type[Exception], ...] = ()
    ) -> T | None:
        """Run a call in the writer thread; None where it failed, which is noted.

        A call that takes longer than `timeout_s` is noted as trouble and then waited for: the thread is busy
        with it anyway, and what is to be written stays bounded by the queue.

        Raises:
            LocalDirectoryError: the call raised it and `refusals` does not name it.
        """
        job = self._writer.submit(call)
        with trio.move_on_after(timeout_s):
            await job.wait()
        if not job.finished:
            self._write_failed(Trouble.SILENCE)
            if not self._started:
                return None
            self._set_room()
            await job.wait()
        self._counters.cache_set_aside = self._store.set_aside_count
        try:
            return job.result()
        except StoreTrouble as error:
            log.debug("cache directory %s: %s: %s", self.settings.directory, error.trouble, error)
            self._write_failed(error.trouble)
        except refusals as error:
            log.debug("cache directory %s: %s", self.settings.directory, error)
            self._write_failed(Trouble.IO)
        except LocalDirectoryError:
            if not self._started:
                raise
            log.exception("cache directory %s is not ours any more", self.settings.directory)
            self._write_failed(Trouble.IO)
        except Exception:
            log.exception("writing frames failed in an unforeseen way")
            self._counters.unexpected_errors += 1
            self._write_failed(Trouble.DATABASE)
        return None

    def _write_failed(self, trouble: Trouble) -> None:
        self._counters.cache_write_errors += 1
        self._failed(trouble)

    def _failed(self, trouble: Trouble) -> None:
        before = self._health.state
        self._health.failed(trouble, trio.current_time())
        if self._health.state is not before:
            log.warning(
                "cache directory %s: %s → %s (%s)",
                self.settings.directory,
                before,
                self._health.state,
                trouble,
            )
        self._counters.cache_dropped_writes += self._queue.drop_waiting()
        self._set_room()
        self._wake.set()

    def _take_flushes(self) -> list[trio.Event]:
        flushes, self._flushes = self._flushes, []
        return flushes

    def _set_room(self) -> None:
        """Let everybody who waits for room look again."""
        self._room.set()
        self._room = trio.Event()


def _compact(data: Buffer) -> Buffer:
    """A block that is a small part of a large answer is copied: keeping it would keep the whole answer.

    128 KiB take 10 µs.
    """
    if isinstance(data, memoryview) and memoryview(data.obj).nbytes > 2 * len(data):
        return bytes(data)
    return data
