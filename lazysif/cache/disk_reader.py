"""What the cache reads from disk: frames and block tables, in threads of their own, each wait with a deadline.

A reader in `load` submits one job for all it lacks and waits for it; a second reader of the same block joins. The
job's end puts the blocks into the memory tier, whoever still waits. The loads under way belong to the trio thread;
the threads get digests and give a `ReadResult` back, which ends a load without a checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import trio

from lazysif.cache.backlog import Backlog
from lazysif.cache.disk_access import DiskAccess
from lazysif.cache.frame_reads import ReadResult
from lazysif.cache.lane import Job, ThreadLane
from lazysif.cache.memory import MemoryTier
from lazysif.cache.store import FrameStore
from lazysif.cache.table_file import read_records
from lazysif.core.disk_health import Trouble
from lazysif.model import Buffer, Digest, ImageId
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_ASKED_AT_ONCE = 256
"""Rows looked up in one job of a reader thread, which readers wait for: 1 ms."""

Came = Callable[[Digest, Buffer], None]


class _Load:
    """One batch read under way."""

    def __init__(self, came: Came | None) -> None:
        self.finished = trio.Event()
        self.found: dict[Digest, Buffer] = {}
        self.came = came
        self.late = False


class DiskReader:
    """Owns the loads that are under way.

    Args:
        store: is read.
        lane: of the reader threads.
        memory: what a load found is put there.
        backlog: told what is to be done about what was read.
        access: asked before each read, told of trouble.
        counters: `frames_quarantined`, `cache_read_errors`, `unexpected_errors`.
        timeout_s: the longest that anybody waits for the disk.
    """

    def __init__(
        self,
        store: FrameStore,
        lane: ThreadLane,
        memory: MemoryTier,
        backlog: Backlog,
        access: DiskAccess,
        counters: Counters,
        *,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._lane = lane
        self._memory = memory
        self._backlog = backlog
        self._access = access
        self._counters = counters
        self._timeout_s = timeout_s
        self._loads: dict[Digest, _Load] = {}

    # --- frames -----------------------------------------------------------------------------------

    async def load(self, digests: Sequence[Digest]) -> dict[Digest, Buffer]:
        """What the disk has of blocks that are not in memory: one thread hop, less where others asked already."""
        joined: dict[Digest, _Load] = {}
        wanted: list[Digest] = []
        for digest in digests:
            if digest in self._loads:
                joined[digest] = self._loads[digest]
            elif digest not in self._backlog.doomed:
                wanted.append(digest)
        if wanted and self._access.readable:
            joined.update(dict.fromkeys(wanted, self._start(wanted)))
        for load in set(joined.values()):
            await self._wait_for(load)
        return {d: load.found[d] for d, load in joined.items() if d in load.found}

    def preload(self, digests: Iterable[Digest], came: Came | None) -> None:
        """Begin a load of blocks that are not in memory; `came` is told those that nobody has asked for yet."""
        wanted = [d for d in digests if d not in self._loads and d not in self._backlog.doomed]
        if wanted and self._access.readable:
            self._start(wanted, came)

    async def read(self, digests: Iterable[Digest]) -> dict[Digest, Buffer]:
        """What the disk has of blocks that are not in memory; it is neither kept there nor shared."""
        wanted = list({d for d in digests if d not in self._backlog.doomed})
        if wanted and self._access.readable:
            with trio.move_on_after(self._timeout_s):
                result = await self._lane.run(lambda: self._store.read_many(wanted))
                self._note(result)
                return result.found
        return {}

    async def absent(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of the blocks that neither wait to be written nor are on disk; none where it cannot be asked."""
        absent: set[Digest] = set()
        for start in range(0, len(digests), _ASKED_AT_ONCE):
            asked = [d for d in digests[start : start + _ASKED_AT_ONCE] if not self._backlog.waits(d)]
            if not self._access.readable:
                return set()
            call = partial(self._store.absent, asked)
            with trio.move_on_after(self._timeout_s):
                absent.update(d for d in await self._lane.run(call) if not self._backlog.waits(d))
        return absent

    @property
    def busy(self) -> bool:
        """Whether a load is under way."""
        return bool(self._loads)

    def _start(self, digests: Sequence[Digest], came: Came | None = None) -> _Load:
        load = _Load(came)
        self._loads.update(dict.fromkeys(digests, load))
        self._lane.submit(lambda: self._store.read_many(digests), lambda job: self._end(load, digests, job))
        return load

    async def _wait_for(self, load: _Load) -> None:
        if load.late:
            return
        with trio.move_on_after(self._timeout_s):
            await load.finished.wait()
        if not load.finished.is_set() and not load.late:
            load.late = True
            self._access.read_failed(Trouble.SILENCE)

    def _end(self, load: _Load, digests: Sequence[Digest], job: Job[ReadResult]) -> None:
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
        self._note(result)
        load.finished.set()

    def _note(self, result: ReadResult) -> None:
        for digest, why in result.damaged.items():
            log.warning("frame %s is deleted and will be fetched again: %s", digest.hex(), why)
        self._counters.frames_quarantined += len(result.damaged)
        if result.suspect:
            self._counters.cache_read_errors += 1
        self._backlog.note_read(result)
        if result.trouble is not None:
            self._access.read_failed(result.trouble)
        elif result.found:
            self._access.health.answered()

    # --- block tables -------------------------------------------------------------------------------

    async def read_table(self, path: Path, image_id: ImageId, count: int) -> bytearray | None:
        """The records of a block table; None where there is none to be believed, or not in time."""
        records: bytearray | None = None
        if self._access.started and self._access.health.may_read:
            with trio.move_on_after(self._timeout_s) as scope:
                records = await self._lane.run(lambda: read_records(path, image_id, count))
            if scope.cancelled_caught:
                self._access.read_failed(Trouble.SILENCE)
        return records
