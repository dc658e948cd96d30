"""The task that has everything written: batches of new frames, deletions, uses, tables, chores, repairs, probes.

It alone uses the writer thread, one call at a time, and takes what is to be done from the backlog. What waits is
given to the thread as a value (`Work`, `TableJob`) and stays readable until it lies on disk.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from threading import BrokenBarrierError

import trio

from lazysif.cache.backlog import Backlog, Work
from lazysif.cache.block_tables import BlockTables
from lazysif.cache.cache_settings import CacheSettings
from lazysif.cache.disk_access import DiskAccess
from lazysif.cache.lane import ThreadLane
from lazysif.cache.store import FrameStore
from lazysif.cache.trouble import StoreTrouble
from lazysif.cache.write_behind import BatchReport, plan_room, write_batch, write_tables
from lazysif.cache.writer_thread import WriterThread
from lazysif.core.disk_health import Trouble
from lazysif.errors import LazysifError
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_ROOM_BYTES = 1 << 20
"""What must fit before a full disk counts as well again: a few blocks."""
_SWEEP_S = 86400.0
"""From one search for tables long unused to the next."""


class DiskWriter:
    """Owns the rounds of the writer thread: when there is one, and what it does.

    Args:
        settings: bounds and times.
        store: is written.
        tables: whose dirty records are written.
        thread: the writer thread.
        readers: the threads that read, whose connections a probe closes.
        backlog: what is to be done.
        access: asked before each round, told when the disk is well again.
        counters: `frames_evicted`, `cache_dropped_writes`, `cache_write_errors`.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: FrameStore,
        tables: BlockTables,
        thread: WriterThread,
        readers: ThreadLane,
        backlog: Backlog,
        access: DiskAccess,
        counters: Counters,
    ) -> None:
        self.free_bytes = 0
        """Free space of the file system after the last round."""
        self._settings = settings
        self._store = store
        self._tables = tables
        self._thread = thread
        self._readers = readers
        self._backlog = backlog
        self._access = access
        self._counters = counters

    async def open(self) -> None:
        """Open the store and the directory of the tables, as far as the disk is well.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
        """
        await self._thread.run(self._open_in_thread, self._settings.read_timeout_s)

    def _open_in_thread(self) -> None:
        self._store.open()
        try:
            self._tables.prepare()
            self._tables.delete_unused(kept=())
        except OSError as error:
            raise StoreTrouble(Trouble.IO, str(error)) from error

    async def serve(self) -> None:
        """Write until the cache closes, and then what still waits.

        Blocks gather before they are written, then all of them: a start has the processor to itself meanwhile.
        """
        next_tick = trio.current_time()
        next_sweep = next_tick + _SWEEP_S
        while True:
            now = trio.current_time()
            last = self._access.closing
            if self._access.health.probe_due(now):
                await self._probe()
            flushes = self._backlog.take_flushes()
            gathers = now < self._due_at(now) < math.inf and not (last or flushes)
            if self._access.health.may_write and not gathers:
                await self._write(flush_all=last or now >= next_tick or bool(flushes))
            for flushed in flushes:
                flushed.set()
            await self._repair_some()
            if now >= next_sweep and self._access.health.may_write:
                next_sweep = now + _SWEEP_S
                call = partial(self._tables.delete_unused, kept=self._tables.open_paths())
                await self._thread.run(call, self._settings.write_timeout_s)
            if now >= next_tick and not gathers:
                next_tick = trio.current_time() + self._settings.tick_s
            if last and not (self._backlog.has_blocks and self._access.health.may_write):
                return
            if self._access.closing:
                continue  # whoever closed during a batch has given it more to write than that batch took
            # asked anew: trouble may have taken all that waited, and then only the tick asks the disk again
            due_at = self._due_at(now)
            await self._backlog.wait_work(due_at if due_at < math.inf else next_tick)

    def _due_at(self, now: float) -> float:
        return self._backlog.write_due_at(now, may_write=self._access.health.may_write)

    async def _write(self, *, flush_all: bool) -> None:
        """One round of the writer thread: the next batch, and with `flush_all` what else has gathered."""
        work = self._backlog.take(self._batch_bytes, with_uses=flush_all)
        if work.empty and not flush_all:
            return
        call = partial(self._write_in_thread, work, chore=flush_all)
        report = await self._thread.run(call, self._settings.write_timeout_s)
        self._backlog.done(work, succeeded=report is not None)
        if report is None:
            self._counters.cache_dropped_writes += len(work.batch)
            return
        self._note_written(report)
        if flush_all:
            await self._write_tables()

    def _write_in_thread(self, work: Work, *, chore: bool) -> BatchReport:
        if work.suspect:
            self._store.ask_again(work.suspect)
        report = write_batch(
            self._store,
            work.batch,
            work.doomed,
            work.uses,
            limit_bytes=self._settings.limit_bytes,
            floor_bytes=self._settings.min_free_bytes,
        )
        if chore:
            self._store.do_chore()
        return report

    @property
    def _batch_bytes(self) -> int:
        """A batch that is larger than what may be cached is not written at all (`plan_eviction`)."""
        return min(self._settings.batch_bytes, self._settings.limit_bytes // 8)

    def _note_written(self, report: BatchReport) -> None:
        self.free_bytes = report.free_bytes
        self._counters.frames_evicted += report.evicted
        self._counters.cache_dropped_writes += report.skipped
        if report.disk_full:
            self._access.failed(Trouble.FULL)

    async def _write_tables(self) -> None:
        jobs = self._tables.take_dirty()
        if not jobs:
            return
        call = partial(write_tables, self._tables, jobs)
        failed = await self._thread.run(call, self._settings.write_timeout_s, (OSError,))
        for job, intact in failed if failed is not None else [(job, False) for job in jobs]:
            job.table.give_back(job, all_records=not intact)
        if failed:
            self._counters.cache_write_errors += 1

    async def _repair_some(self) -> None:
        """With a sick disk, or at the end, they are let go of undone: the next check finds the same again."""
        while (asked := self._backlog.take_repair()) is not None:
            call, done = asked
            if self._access.writable:
                await self._thread.run(partial(call, self._store), self._settings.write_timeout_s)
            done.set()

    async def _probe(self) -> None:
        """Ask the disk, and the reader threads, whether they are there again.

        All connections are closed first, at one time: SQLite shares one index file among the connections of a
        process, and one that was opened read-only stays so for all of them.
        """

        def close_first() -> bool:
            self._store.disconnect()
            return True

        def attempt() -> bool:
            self._store.remove_set_aside()  # what is missing may be its room, even for a new database
            self._store.probe()
            self._check_room()
            self._tables.prepare()
            return True

        before = self._access.health.state
        refusals = (LazysifError, OSError)
        if not await self._thread.run(close_first, self._settings.write_timeout_s):
            return
        try:
            await self._readers.everywhere(self._store.close_thread, self._settings.read_timeout_s)
        except BrokenBarrierError:
            self._access.failed(Trouble.SILENCE)
            return
        if await self._thread.run(attempt, self._settings.write_timeout_s, refusals):
            self._access.health.recovered(trio.current_time())
            log.info("cache directory %s is in use again (was %s)", self._settings.directory, before)

    def _check_room(self) -> None:
        """In the writer thread. Raises: StoreTrouble: blocks would be passed over for want of free space."""
        plan = plan_room(
            self._store,
            min(_ROOM_BYTES, self._batch_bytes),
            limit_bytes=self._settings.limit_bytes,
            floor_bytes=self._settings.min_free_bytes,
        )
        if plan.disk_full:
            raise StoreTrouble(Trouble.FULL, "less is free than is to be left free")
