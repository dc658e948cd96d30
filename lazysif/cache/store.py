"""The block store: digest → frame, in diskcache.

What diskcache is used for and what it is kept from:

- Keys are digests and values are frames, both bytes; values lie in files, one each (`frame_disk`).
- Least recent use is told by `expire_time`, and eviction is diskcache's own `expire()` (`use_clock`).
- The database is opened in one way only, and one that is damaged is set aside (`frame_database`).
- Rows of new frames are made past it, many in one statement (`rows`).

Only `frame_disk` and `frame_database` import it: what else it can do is out of reach for all others.

Threads: `read_many` and `absent` from any number of threads, all else from one writer thread. Nothing here knows
trio.
Errors: `StoreTrouble` is the only one after `open()`; damage is not an error but a miss that is reported.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lazysif.cache import reconcile
from lazysif.cache.frame_database import DiskCache, FrameDatabase
from lazysif.cache.frame_disk import PAGE, VALUE_MODE
from lazysif.cache.frame_reads import ReadResult, absent, read_frame, read_frames
from lazysif.cache.rows import Row, insert, present
from lazysif.cache.trouble import StoreTrouble, judge_os
from lazysif.cache.use_clock import eviction_threshold, lifetime_s
from lazysif.cache.value_file import read_file, write_file
from lazysif.model import Buffer, Digest

EVICTED_AT_ONCE = 100_000
"""The most frames that one call evicts: 4 s for their rows alone, of the 30 that a call may take."""
Frame = bytes | Callable[[], Sequence[Buffer]]
"""A frame, or what makes its pieces when it is written: those of a whole batch would be its size in fresh memory."""


class FrameStore:
    """All frames of one cache directory.

    Args:
        directory: of the cache; the frames lie in `frames-v1` below it.
        touch_after_s: a use is noted only when the last noted one is older, so that hot frames cost no
            writes.
    """

    def __init__(self, directory: Path, *, touch_after_s: float = 300.0) -> None:
        self.directory = directory
        self._touch_after_s = touch_after_s
        self._database = FrameDatabase(directory, self._begin_chores)
        self._chores: Iterator[None] = iter(())

    @property
    def frames(self) -> Path:
        """Where database and frames lie."""
        return self._database.frames

    @property
    def used_bytes(self) -> int:
        """Bytes that the frames and the database occupy, as of the last call of the writer thread."""
        return self.frame_bytes + self.database_bytes

    @property
    def frame_bytes(self) -> int:
        """Those of the frames alone."""
        return self._database.frame_bytes

    @property
    def database_bytes(self) -> int:
        """Those of the database alone."""
        return self._database.database_bytes

    @property
    def set_aside_count(self) -> int:
        """Databases found damaged and replaced since the start."""
        return self._database.set_aside_count

    # --- any thread -------------------------------------------------------------------------------

    def read_many(self, digests: Sequence[Digest]) -> ReadResult:
        """Read and check frames. Never raises; what is not in the result is not there."""
        return read_frames(self._database.connect(), digests, self._touch_after_s)

    def absent(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those that have no row. Never raises; where the database cannot be asked, none is said to be absent."""
        return absent(self._database.connect(), digests)

    def close_thread(self) -> None:
        """Close what belongs to the calling thread."""
        self._database.close_thread()

    # --- the writer thread: opening and closing ---------------------------------------------------

    def claim(self) -> None:
        """Check and lock the directory, and leave alone what lies in it.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            OSError: the disk is sick.
        """
        self._database.claim()

    def open(self) -> None:
        """Check and lock the directory and open the database; may be called again after a `StoreTrouble`.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            StoreTrouble: the disk is sick.
        """
        self._database.write(lambda _: None)

    def ask_again(self, suspect: Digest) -> None:
        """Read a frame for which a reader found the database damaged; it is set aside where it is.

        Over a new connection: the one that writes may go on for long with pages it remembers.

        Raises: StoreTrouble.
        """
        self._database.disconnect()
        self._database.write(lambda cache: read_frame(cache, suspect, self._touch_after_s, ReadResult()))

    def begin_anew(self, why: str) -> None:
        """Set the database aside, whatever this connection thinks of it. Raises: StoreTrouble."""
        self._database.begin_anew(why)

    def probe(self) -> None:
        """Try whether the disk takes and gives back a small file, and the database a transaction.

        Raises:
            LocalDirectoryError: the directory changed hands meanwhile.
            StoreTrouble: it does not.
        """
        self._database.write(_probe)

    def free_bytes(self) -> int:
        """Free space of the file system for us. Raises: StoreTrouble."""
        try:
            answer = os.statvfs(self.directory)
        except OSError as error:
            raise StoreTrouble(judge_os(error), str(error)) from error
        return answer.f_bavail * answer.f_frsize

    def disconnect(self) -> None:
        """Close the writer's connection: a failed one may be left inside a transaction."""
        self._database.disconnect()

    def close(self) -> None:
        """Close the database in the writer thread and give up the lock."""
        self._database.close()
        self._chores = iter(())

    # --- the writer thread: frames ----------------------------------------------------------------

    def write_many(self, frames: Iterable[tuple[Digest, Frame, bool]]) -> int:
        """Store (digest, frame, pinned) in one transaction: all or none; returns how many were new.

        Raises: StoreTrouble.
        """
        return self._database.write(partial(_insert, batch=list(frames)))

    def touch_many(self, uses: Iterable[tuple[Digest, bool]]) -> None:
        """Note (digest, pinned) as used now, least recent first; what is not stored is passed over.

        Raises: StoreTrouble.
        """
        batch = list(uses)

        def touch(cache: DiskCache) -> None:
            with cache.transact():
                for digest, pinned in batch:
                    cache.touch(digest, expire=lifetime_s(pinned))

        self._database.write(touch)

    def delete_many(self, digests: Iterable[Digest]) -> None:
        """Delete frames, in one transaction. Raises: StoreTrouble."""
        batch = list(digests)

        def delete(cache: DiskCache) -> None:
            with cache.transact():
                for digest in batch:
                    cache.delete(digest)

        self._database.write(delete)

    def evict(self, free_bytes: int) -> int:
        """Delete the least recently used frames that occupy `free_bytes` together; returns how many went.

        No more than `EVICTED_AT_ONCE` go, or a few. Raises: StoreTrouble.
        """

        def expire(cache: DiskCache) -> int:
            return cache.expire(eviction_threshold(cache._sql, free_bytes, EVICTED_AT_ONCE))

        return self._database.write(expire) if free_bytes > 0 else 0

    def shrink(self) -> None:
        """Give back what the database occupies and does not need, where that is half of it. Raises: StoreTrouble."""
        self._database.shrink()

    # --- the writer thread: rows, files and sums that do not agree --------------------------------

    def do_chore(self) -> bool:
        """One short piece (under 0.1 s) of cleaning up; False when nothing is left to do.

        Raises: StoreTrouble.
        """
        return self._database.write(lambda _: next(self._chores, self) is None)

    def remove_set_aside(self) -> None:
        """One short piece of the removal of databases set aside, whether or not there is room for a new one."""
        next(reconcile.remove_set_aside(self.directory), None)

    def strike_rows(self, rows: Iterable[tuple[int, bytes | None]]) -> int:
        """Delete rows by number, where they name the file that they named; returns how many there were.

        Unlike `delete_many` it reaches rows whose key no caller can ask for. Raises: StoreTrouble.
        """
        return self._database.write(partial(reconcile.strike_rows, rows=list(rows)))

    def correct_sizes(self, rows: Iterable[tuple[int, bytes, int]]) -> None:
        """Set what rows say that their files occupy. Raises: StoreTrouble."""
        self._database.write(partial(reconcile.correct_sizes, rows=list(rows)))

    def recount(self) -> None:
        """Set the sums that diskcache's triggers keep to what the rows add up to. Raises: StoreTrouble."""
        self._database.write(reconcile.recount)

    def remove_orphans(self, filenames: Iterable[str]) -> int:
        """Remove value files that no row names; returns how many. Raises: StoreTrouble."""
        return self._database.write(partial(reconcile.remove_orphans, filenames=list(filenames)))

    def _begin_chores(self, cache: DiskCache) -> None:
        self._chores = reconcile.chores(self.directory, cache)


def _insert(cache: DiskCache, batch: list[tuple[Digest, Frame, bool]]) -> int:
    disk = cache.disk
    disk.written.clear()
    rows: dict[Digest, Row] = {}
    try:
        with cache.transact():
            there = present(cache._sql, [digest for digest, _, _ in batch], time.time())
            for digest, frame, pinned in batch:
                if digest not in there and digest not in rows:
                    made = frame() if callable(frame) else (frame,)
                    written = disk.write(digest, *made)
                    rows[digest] = Row(digest, written.filename, written.stored_bytes, lifetime_s(pinned))
                elif pinned:
                    cache.touch(digest, expire=lifetime_s(pinned))
            insert(cache._sql, list(rows.values()), VALUE_MODE, time.time())
    except BaseException:
        disk.forget_written()
        raise
    return len(rows)


def _probe(cache: DiskCache) -> None:
    path = os.path.join(cache.directory, "probe")
    content = os.urandom(PAGE)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    write_file(path, content)
    if read_file(path) != content:
        raise OSError(errno.EIO, "the disk gives back other bytes than it took")
    os.unlink(path)
    with cache.transact():
        cache.reset("cull_limit", 0)
