"""The database of the store: opened with diskcache in one way only, watched, and set aside where it is damaged.

It is used by one writer thread (`write`) and any number of readers, each over a connection of its own (`connect`).
A database that is damaged is set aside by rename with all its frames, and a new one is begun; one that the disk
does not let us read is kept (`check_readable`). diskcache's triggers keep the sum of the `size` column, so that a
store of a million frames opens without being read.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import diskcache

from lazysif.cache.directory import DirectoryLock, prepare_directory
from lazysif.cache.frame_disk import FOLDERS, FrameDisk
from lazysif.cache.trouble import StoreTrouble, check_readable, judge
from lazysif.core.disk_health import Trouble
from lazysif.model import Digest

T = TypeVar("T")
log = logging.getLogger(__name__)

FRAMES = "frames-v1"
"""Directory of this format; a directory of another version is left alone."""
_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
    # Freed pages are used again; shrinking the file would move pages at every delete (`shrink`).
    "sqlite_auto_vacuum": 0,
    "sqlite_cache_size": 2**12,
    "sqlite_journal_mode": "wal",
    # A database truncated or unreadable below a memory map is a SIGBUS; below pread it is an error.
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
}
_BUSY_S = 5.0
"""How long SQLite waits for a lock. Nobody else holds one, unless somebody looks into the database by
hand."""
REFUSALS = (sqlite3.Error, diskcache.Timeout, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What comes out of diskcache over a sick disk or a damaged database; a planted setting can raise the last
four."""


class DiskCache(Protocol):
    """What is used of `diskcache.Cache`, which has no types.

    Its truth is its length, which is read from the disk: ask `is None`.
    """

    @property
    def directory(self) -> str: ...
    @property
    def disk(self) -> FrameDisk: ...
    @property
    def _sql(self) -> Callable[..., sqlite3.Cursor]: ...
    def __contains__(self, key: object) -> bool: ...
    def get(self, key: Digest, *, expire_time: bool) -> tuple[bytes | None, object]: ...
    def touch(self, key: Digest, expire: float) -> bool: ...
    def delete(self, key: bytes) -> bool: ...
    def expire(self, now: float) -> int: ...
    def reset(self, key: str, value: object = ...) -> object: ...
    def transact(self) -> AbstractContextManager[None]: ...
    def close(self) -> None: ...


class _Cache(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """One whose connection is closed where it cannot be opened to the end.

    Left open, each attempt on a full disk cost two descriptors, and a piece of a log that nobody could put away.
    """

    def __init__(self, directory: str, **settings: object) -> None:
        try:
            super().__init__(directory, **settings)
        except BaseException:
            close_connection(self)
            raise


class FrameDatabase:
    """The database of one cache directory, and the lock of that directory.

    Args:
        directory: of the cache; database and frames lie in `frames-v1` below it.
        on_open: called with a database that was opened just now, in the writer thread.
    """

    def __init__(self, directory: Path, on_open: Callable[[DiskCache], None]) -> None:
        self.frames = directory / FRAMES
        self.cache: DiskCache | None = None
        """The open database."""
        self.frame_bytes = 0
        """Bytes that the frames occupy, as of the last call of the writer thread."""
        self.database_bytes = 0
        """Those of the database."""
        self.set_aside_count = 0
        """Databases found damaged and replaced since the start."""
        self._directory = directory
        self._on_open = on_open
        self._lock = DirectoryLock(directory)
        self._file: os.stat_result | None = None
        self._mine = threading.local()

    # --- the writer thread ------------------------------------------------------------------------

    def write(self, action: Callable[[DiskCache], T]) -> T:
        """Do `action` on the database; where that proves damaged, set it aside and do it on a new one.

        It is damaged where a second connection finds so too: to SQLite one i/o error of the disk is damage.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            StoreTrouble: the disk is sick.
        """
        for attempt in (1, 2, 3):
            try:
                value = action(self._current())
                self.measure()
            except REFUSALS as error:
                trouble, why = self._judge(error)
                self.disconnect()
                if trouble is None:
                    check_readable(self.frames)
                if trouble is not None or attempt == 3:
                    raise StoreTrouble(trouble or Trouble.DATABASE, why) from error
                if attempt == 2:
                    self._set_aside(why)
            else:
                return value
        raise AssertionError("unreachable")

    def measure(self) -> None:
        """Take over the sum that the triggers keep: one row, however many frames there are."""
        assert self.cache is not None
        size = self.cache.reset("size")
        if type(size) is not int or size < 0:
            raise ValueError(f"the database says that its frames occupy {size!r} bytes")
        files = (self.frames / name for name in ("cache.db", "cache.db-wal"))
        self.frame_bytes = size
        self.database_bytes = sum(path.stat().st_size for path in files if path.exists())

    def shrink(self) -> None:
        """Give back what the database occupies and does not need, where that is half of it. Raises: StoreTrouble.

        What is live is copied twice: 0.4 s for 100,000 frames.
        """

        def vacuum(cache: DiskCache) -> None:
            (((pages,),), ((unused,),)) = (
                cache._sql(f"PRAGMA {name}").fetchall() for name in ("page_count", "freelist_count")
            )
            if unused > pages // 2:
                cache._sql("VACUUM")
                cache._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        self.write(vacuum)

    def claim(self) -> None:
        """Check and lock the directory, and leave alone what lies in it.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            OSError: the disk is sick.
        """
        prepare_directory(self._directory)
        self._lock.acquire()

    def begin_anew(self, why: str) -> None:
        """Set the database aside, whatever this connection thinks of it. Raises: StoreTrouble."""
        self.disconnect()
        self._set_aside(why)
        self.write(lambda _: None)

    def disconnect(self) -> None:
        """Close the writer's connection: a failed one may be left inside a transaction."""
        if self.cache is not None:
            close_connection(self.cache)

    def close(self) -> None:
        """Close the database in the writer thread and give up the lock."""
        self.close_thread()
        self.cache = None
        self._lock.release()

    # --- any thread -------------------------------------------------------------------------------

    def connect(self) -> DiskCache | None:
        """The open database for use by this thread, whose connection to one that was set aside is closed."""
        return self._use(self.cache)

    def close_thread(self) -> None:
        """Close what belongs to the calling thread."""
        cache = getattr(self._mine, "cache", None)
        if cache is not None:
            self._mine.cache = None
            close_connection(cache)

    def _use(self, cache: DiskCache | None) -> DiskCache | None:
        before = getattr(self._mine, "cache", None)
        if before is not cache:
            if before is not None:
                close_connection(before)
            self._mine.cache = cache
        return cache

    # --- the writer thread, inside ----------------------------------------------------------------

    def _current(self) -> DiskCache:
        """The open database, which must still be the file that lies in the directory."""
        if self.cache is not None and not self._in_place():
            raise ValueError("the database was moved or deleted")
        return self.cache if self.cache is not None else self._open()

    def _open(self) -> DiskCache:
        self.claim()
        prepare_directory(self.frames)
        for number in range(FOLDERS):
            (self.frames / f"{number:x}").mkdir(mode=0o700, exist_ok=True)
        self._refuse_other_files()
        cache: DiskCache = _Cache(str(self.frames), timeout=_BUSY_S, disk=FrameDisk, **_SETTINGS)
        self._use(cache)
        self._file = os.stat(self.frames / "cache.db")
        self.cache = cache
        self._on_open(cache)
        return cache

    def _refuse_other_files(self) -> None:
        """SQLite says of a directory only that it cannot open it, and follows symbolic links."""
        for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
            path = self.frames / name
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise ValueError(f"{name} is not a regular file")

    def _in_place(self) -> bool:
        try:
            found = os.stat(self.frames / "cache.db")
        except FileNotFoundError:
            return False
        return self._file is not None and os.path.samestat(found, self._file)

    def _judge(self, error: Exception) -> tuple[Trouble | None, str]:
        """What an error is (`judge`), and what it says: a local name for its cause would keep frames alive, and
        with them the statements of a connection that is to be closed."""
        cause = self._cause(error)
        return trouble_of(cause), f"{type(cause).__name__}: {cause}"

    def _cause(self, error: Exception) -> Exception:
        """What is behind diskcache's `Timeout`, which hides why a transaction could not begin, and behind its
        ROLLBACK of one that SQLite has rolled back already."""
        while str(error).startswith("cannot rollback") and isinstance(error.__context__, Exception):
            error = error.__context__
        if isinstance(error, diskcache.Timeout) and self.cache is not None:
            try:
                self.cache._sql("BEGIN IMMEDIATE")
                self.cache._sql("ROLLBACK")
            except REFUSALS as cause:
                return cause
        return error

    def _set_aside(self, why: str) -> None:
        """Move the damaged database and its frames out of the way; they are removed later, piece by piece."""
        log.warning("block store %s is damaged and is begun anew: %s", self.frames, why)
        self.cache = None
        self.frame_bytes = self.database_bytes = 0
        self.set_aside_count += 1
        try:
            if self.frames.exists():
                self.frames.rename(self._free_name())
        except OSError as failure:
            raise StoreTrouble(trouble_of(failure) or Trouble.IO, str(failure)) from failure

    def _free_name(self) -> Path:
        number = 1
        while (path := self._directory / f"{FRAMES}.damaged-{number}").exists():
            number += 1
        return path


def close_connection(cache: DiskCache) -> None:
    """Close this thread's connection; a connection that cannot even be closed is left to the collector."""
    try:
        cache.close()
    except sqlite3.Error:
        pass


def trouble_of(error: Exception) -> Trouble | None:
    """`judge`, which need not know diskcache."""
    return Trouble.DATABASE if isinstance(error, diskcache.Timeout) else judge(error)
