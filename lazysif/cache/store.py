"""The block store: digest → frame, in diskcache. The only module that imports it.

What diskcache is used for and what it is kept from:

- Keys are digests and values are frames, both bytes. Pickle is refused in both directions (CVE-2025-69872
  has no fixed release): a row that claims to be a pickle or a text is damage, and is never loaded.
- `expire_time` is the clock of least recent use: last use + `HORIZON_S`, and for pinned frames +
  `PINNED_S` more. So eviction is diskcache's own `expire()` up to a threshold, ordinary frames go before
  pinned ones, and `get` writes nothing.
- Values lie in files, one each, never in the database; the `size` column holds what they occupy on disk, and
  diskcache's triggers keep its sum, so that a store of a million frames opens without being read.
- A database that is damaged is set aside by rename with all its frames, and a new one is begun.

Threads: `read_many` from any number of threads, all else from one writer thread. Nothing here knows trio.
Errors: `StoreTrouble` is the only one after `open()`; damage is not an error but a miss that is reported.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf, nextafter
from pathlib import Path
from typing import TypeVar

import diskcache
from diskcache.core import MODE_BINARY, UNKNOWN

from lazysif.cache.directory import DirectoryLock, prepare_directory
from lazysif.cache.frame import DamagedFrame, decode
from lazysif.cache.rows import Row, insert, present
from lazysif.cache.trouble import StoreTrouble, judge, judge_os
from lazysif.cache.value_file import read_file, remove_slowly, write_file
from lazysif.core.disk_health import Trouble
from lazysif.model import Buffer, Digest

T = TypeVar("T")
Frame = bytes | Callable[[], Sequence[Buffer]]
"""A frame, or what makes its pieces when it is written: those of a whole batch would be its size in fresh memory."""
log = logging.getLogger(__name__)

FRAMES = "frames-v1"
"""Directory of this format; a directory of another version is left alone."""
HORIZON_S = 100 * 365.25 * 86400
PINNED_S = HORIZON_S
_PAGE = 4096
_FOLDERS = 16
"""Directories of value files. ext4 spreads directories over the disk: the first 1,024 files of 128 KiB
took 30 to 130 µs each to create in 16 directories, and 430 to 520 µs in 256."""
VALUE_FILE = re.compile(r"[0-9a-f]/[0-9a-f]{32}\.val")
_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
    # Freed pages are used again; shrinking the file would move pages at every delete.
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
_REFUSALS = (sqlite3.Error, diskcache.Timeout, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What comes out of diskcache over a sick disk or a damaged database; a planted setting can raise the last
four."""


class _Unreadable(Exception):
    """A value file that cannot be read; not an OSError, which `diskcache.Cache.get` would take for a miss."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class ReadResult:
    """What `read_many` found.

    Args:
        found: checked contents.
        damaged: frames that failed their check, and how.
        unreadable: frames whose file the disk would not read.
        aged: found frames whose last use is to be noted, and whether they are pinned.
        trouble: why reading stopped early, if it did.
        suspect: the database that proved damaged, to be handed to `FrameStore.replace`.
    """

    found: dict[Digest, Buffer] = field(default_factory=dict)
    damaged: dict[Digest, str] = field(default_factory=dict)
    unreadable: list[Digest] = field(default_factory=list)
    aged: dict[Digest, bool] = field(default_factory=dict)
    trouble: Trouble | None = None
    suspect: object = None


@dataclass(frozen=True, slots=True)
class Written:
    """A value whose file is there already."""

    filename: str
    size_bytes: int

    @property
    def stored_bytes(self) -> int:
        """What it occupies on disk."""
        return -(-self.size_bytes // _PAGE) * _PAGE


class FrameDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes in, bytes out, one file each; everything else is refused."""

    def __init__(self, directory: str, **settings: object) -> None:
        super().__init__(directory, **settings)
        self.written: list[str] = []
        """Files written since the list was last cleared: removed where their transaction fails."""
        self._prefix = os.urandom(8).hex()
        self._numbers = count()

    def put(self, key: object) -> tuple[object, bool]:
        if type(key) is not bytes:
            raise TypeError("keys of the block store are bytes")
        return sqlite3.Binary(key), True

    def get(self, key: object, raw: object) -> bytes:
        if type(key) is not bytes or not raw:
            raise DamagedFrame("a key that is not plain bytes")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str, None]:
        if type(key) is not bytes or read or type(value) is not bytes:
            raise TypeError("keys and values of the block store are bytes")
        written = self.write(key, value)
        return written.stored_bytes, MODE_BINARY, written.filename, None

    def write(self, key: bytes, *pieces: Buffer) -> Written:
        """Write a value's file, for a row that is to follow."""
        # The first byte of the key leads the name, so that `_sweep` can go through rows and files in step.
        filename = f"{key[0] >> 4:x}/{key[0]:02x}{self._prefix}{next(self._numbers):014x}.val"
        self.written.append(filename)
        return Written(filename, write_file(os.path.join(self._directory, filename), *pieces))

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != MODE_BINARY or type(filename) is not str or not VALUE_FILE.fullmatch(filename):
            raise DamagedFrame("a row that this store did not write")
        try:
            return read_file(os.path.join(self._directory, filename))
        except FileNotFoundError:
            raise DamagedFrame("its file is missing") from None
        except OSError as error:
            raise _Unreadable(error) from error

    def remove(self, file_path: object) -> None:
        if type(file_path) is str and VALUE_FILE.fullmatch(file_path):
            try:
                os.unlink(os.path.join(self._directory, file_path))
            except OSError:
                pass  # gone already, or a sick disk: `_sweep` comes by

    def has(self, filename: object) -> bool:
        """True where a value file of ours lies there."""
        return (
            type(filename) is str
            and VALUE_FILE.fullmatch(filename) is not None
            and os.path.exists(os.path.join(self._directory, filename))
        )

    def forget_written(self) -> None:
        """Remove the files of a transaction that failed."""
        for filename in self.written:
            self.remove(filename)


class FrameStore:
    """All frames of one cache directory.

    Args:
        directory: of the cache; the frames lie in `frames-v1` below it.
        touch_after_s: a use is noted only when the last noted one is older, so that hot frames cost no
            writes.
    """

    def __init__(self, directory: Path, *, touch_after_s: float = 300.0) -> None:
        self.directory = directory
        self.frames = directory / FRAMES
        self.used_bytes = 0
        """Bytes that the frames and the database occupy, as of the last call of the writer thread."""
        self.set_aside_count = 0
        """Databases found damaged and replaced since the start."""
        self._touch_after_s = touch_after_s
        self._lock = DirectoryLock(directory)
        self._cache: diskcache.Cache | None = None
        self._database: os.stat_result | None = None
        self._mine = threading.local()
        self._chores: Iterator[None] = iter(())

    # --- the writer thread ------------------------------------------------------------------------

    def open(self) -> None:
        """Check and lock the directory and open the database; may be called again after a `StoreTrouble`.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            StoreTrouble: the disk is sick.
        """
        self._write(lambda _: None)

    def write_many(self, frames: Iterable[tuple[Digest, Frame, bool]]) -> int:
        """Store (digest, frame, pinned) in one transaction: all or none; returns how many were new.

        Raises: StoreTrouble.
        """
        batch = list(frames)
        return self._write(lambda cache: self._insert(cache, batch))

    def touch_many(self, uses: Iterable[tuple[Digest, bool]]) -> None:
        """Note (digest, pinned) as used now, least recent first; what is not stored is passed over.

        Raises: StoreTrouble.
        """
        batch = list(uses)

        def touch(cache: diskcache.Cache) -> None:
            with cache.transact():
                for digest, pinned in batch:
                    cache.touch(digest, expire=_lifetime(pinned))

        self._write(touch)

    def delete_many(self, digests: Iterable[Digest]) -> None:
        """Delete frames, in one transaction. Raises: StoreTrouble."""
        batch = list(digests)

        def delete(cache: diskcache.Cache) -> None:
            with cache.transact():
                for digest in batch:
                    cache.delete(digest)

        self._write(delete)

    def evict(self, free_bytes: int) -> int:
        """Delete the least recently used frames that occupy `free_bytes` together; returns how many went.

        Raises: StoreTrouble.
        """
        return (
            self._write(lambda cache: int(cache.expire(_threshold(cache, free_bytes))))
            if free_bytes > 0
            else 0
        )

    def replace(self, suspect: object) -> None:
        """Set the database aside that a reader found damaged, unless that was done already.

        A reader's word is enough: the writer's own connection may go on for long with pages it remembers.

        Raises: StoreTrouble.
        """
        if self._cache is not None and self._cache is suspect:
            self.disconnect()
            self._set_aside(ValueError("a reader found it damaged"))
            self.open()

    def claim(self) -> None:
        """Check and lock the directory, and leave alone what lies in it.

        Raises:
            LocalDirectoryError: the directory is not ours, not private, or another daemon's.
            OSError: the disk is sick.
        """
        prepare_directory(self.directory)
        self._lock.acquire()

    def begin_anew(self, why: str) -> None:
        """Set the database aside, whatever this connection thinks of it. Raises: StoreTrouble."""
        self.disconnect()
        self._set_aside(ValueError(why))
        self.open()

    def strike_rows(self, rows: Iterable[tuple[int, bytes | None]]) -> int:
        """Delete rows by number, where they name the file that they named; returns how many there were.

        Unlike `delete_many` it reaches rows whose key no caller can ask for. Raises: StoreTrouble.
        """
        batch = list(rows)

        def strike(cache: diskcache.Cache) -> int:
            statement = "DELETE FROM Cache WHERE rowid = ? AND CAST(filename AS BLOB) IS ?"
            with cache.transact():
                struck = [name for number, name in batch if cache._sql(statement, (number, name)).rowcount]
                _keep_sum(cache)
            for name in struck:
                cache.disk.remove(name.decode("utf-8", "replace") if name is not None else None)
            return len(struck)

        return self._write(strike)

    def correct_sizes(self, rows: Iterable[tuple[int, bytes, int]]) -> None:
        """Set what rows say that their files occupy. Raises: StoreTrouble."""
        batch = [(size, number, name) for number, name, size in rows]

        def correct(cache: diskcache.Cache) -> None:
            statement = "UPDATE Cache SET size = ? WHERE rowid = ? AND CAST(filename AS BLOB) IS ?"
            with cache.transact():
                for row in batch:
                    cache._sql(statement, row)
                _keep_sum(cache)

        self._write(correct)

    def recount(self) -> None:
        """Set the sums that diskcache's triggers keep to what the rows add up to. Raises: StoreTrouble."""

        def recount(cache: diskcache.Cache) -> None:
            with cache.transact():
                _sum_up(cache)

        self._write(recount)

    def remove_orphans(self, filenames: Iterable[str]) -> int:
        """Remove value files that no row names; returns how many. Raises: StoreTrouble."""
        by_first: dict[int, set[str]] = {}
        for filename in filenames:
            by_first.setdefault(int(filename[2:4], 16), set()).add(filename)

        def remove(cache: diskcache.Cache) -> int:
            for first, names in by_first.items():
                names -= {filename for _, filename in _rows(cache, first)}
                for filename in names:
                    cache.disk.remove(filename)
            return sum(map(len, by_first.values()))

        return self._write(remove)

    def disconnect(self) -> None:
        """Close the writer's connection: a failed one may be left inside a transaction."""
        if self._cache is not None:
            _close(self._cache)

    def probe(self) -> None:
        """Try whether the disk takes and gives back a small file, and the database a transaction.

        Raises:
            LocalDirectoryError: the directory changed hands meanwhile.
            StoreTrouble: it does not.
        """

        def attempt(cache: diskcache.Cache) -> None:
            path = os.path.join(cache.directory, "probe")
            content = os.urandom(_PAGE)
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

        self._write(attempt)

    def free_bytes(self) -> int:
        """Free space of the file system for us. Raises: StoreTrouble."""
        try:
            answer = os.statvfs(self.directory)
        except OSError as error:
            raise StoreTrouble(judge_os(error), str(error)) from error
        return answer.f_bavail * answer.f_frsize

    def do_chore(self) -> bool:
        """One short piece (under 0.1 s) of cleaning up; False when nothing is left to do.

        Raises: StoreTrouble.
        """
        return self._write(lambda _: next(self._chores, self) is None)

    def close_thread(self) -> None:
        """Close what belongs to the calling thread."""
        cache = getattr(self._mine, "cache", None)
        if cache is not None:
            self._mine.cache = None
            _close(cache)

    def close(self) -> None:
        """Close the database in the writer thread and give up the lock."""
        self.close_thread()
        self._cache = None
        self._lock.release()

    # --- any thread -------------------------------------------------------------------------------

    def read_many(self, digests: Sequence[Digest]) -> ReadResult:
        """Read and check frames. Never raises; what is not in the result is not there."""
        result = ReadResult()
        cache = self._connect(self._cache)
        for digest in digests if cache is not None else ():
            try:
                self._read(cache, digest, result)
            except _REFUSALS as error:
                _close(cache)
                trouble = _judge(error)
                result.suspect = cache if trouble is None else None
                result.trouble = trouble
                break
        return result

    def absent(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those that have no row. Never raises; where the database cannot be asked, none is said to be absent."""
        cache = self._connect(self._cache)
        try:
            there = present(cache._sql, digests, time.time()) if cache is not None else set(digests)
            return [digest for digest in digests if digest not in there]
        except _REFUSALS as error:
            _close(cache)
            log.debug("the database does not say what it has: %s", error)
            return []

    def _read(self, cache: diskcache.Cache, digest: Digest, result: ReadResult) -> None:
        try:
            frame, expires = cache.get(digest, expire_time=True)
            if frame is None:
                return
            result.found[digest] = decode(frame, digest)
        except DamagedFrame as error:
            # Between the row and its file an eviction may have come: then it is a plain miss.
            if digest in cache:
                result.damaged[digest] = str(error)
            return
        except _Unreadable as error:
            result.unreadable.append(digest)
            result.trouble = _judge(error.error)
            return
        remaining_s = (expires if type(expires) is float else 0.0) - time.time()
        pinned = remaining_s > HORIZON_S + PINNED_S / 2
        if remaining_s < _lifetime(pinned) - self._touch_after_s:
            result.aged[digest] = pinned

    def _connect(self, cache: diskcache.Cache | None) -> diskcache.Cache | None:
        """Note which database this thread uses, closing its connection to one that was set aside."""
        before = getattr(self._mine, "cache", None)
        if before is not cache:
            if before is not None:
                _close(before)
            self._mine.cache = cache
        return cache

    # --- the writer thread, inside ----------------------------------------------------------------

    def _write(self, action: Callable[[diskcache.Cache], T]) -> T:
        """Do `action` on the database; where that proves damaged, set it aside and do it on a new one."""
        for attempt in (1, 2):
            try:
                value = action(self._current())
                self._measure()
            except _REFUSALS as error:
                trouble = _judge(self._cause(error))
                self.disconnect()
                if trouble is not None or attempt == 2:
                    raise StoreTrouble(
                        trouble or Trouble.DATABASE, f"{type(error).__name__}: {error}"
                    ) from error
                self._set_aside(error)
            else:
                return value
        raise AssertionError("unreachable")

    def _current(self) -> diskcache.Cache:
        """The open database, which must still be the file that lies in the directory."""
        if self._cache is not None and not self._in_place():
            raise ValueError("the database was moved or deleted")
        if self._cache is None:
            prepare_directory(self.directory)
            self._lock.acquire()
            prepare_directory(self.frames)
            for number in range(_FOLDERS):
                (self.frames / f"{number:x}").mkdir(mode=0o700, exist_ok=True)
            self._refuse_other_files()
            cache = diskcache.Cache(str(self.frames), timeout=_BUSY_S, disk=FrameDisk, **_SETTINGS)
            self._connect(cache)
            self._database = os.stat(self.frames / "cache.db")
            self._cache = cache
            self._chores = self._clean()
        return self._cache

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
        return self._database is not None and os.path.samestat(found, self._database)

    def _measure(self) -> None:
        """Take over the sum that the triggers keep: one row, however many frames there are."""
        assert self._cache is not None
        size = self._cache.reset("size")
        if type(size) is not int or size < 0:
            raise ValueError(f"the database says that its frames occupy {size!r} bytes")
        files = (self.frames / name for name in ("cache.db", "cache.db-wal"))
        self.used_bytes = size + sum(path.stat().st_size for path in files if path.exists())

    def _insert(self, cache: diskcache.Cache, batch: list[tuple[Digest, Frame, bool]]) -> int:
        disk: FrameDisk = cache.disk
        disk.written.clear()
        rows: dict[Digest, Row] = {}
        try:
            with cache.transact():
                there = present(cache._sql, [digest for digest, _, _ in batch], time.time())
                for digest, frame, pinned in batch:
                    if digest not in there and digest not in rows:
                        made = frame() if callable(frame) else (frame,)
                        written = disk.write(digest, *made)
                        rows[digest] = Row(digest, written.filename, written.stored_bytes, _lifetime(pinned))
                    elif pinned:
                        cache.touch(digest, expire=_lifetime(pinned))
                insert(cache._sql, list(rows.values()), MODE_BINARY, time.time())
        except BaseException:
            disk.forget_written()
            raise
        return len(rows)

    def _cause(self, error: Exception) -> Exception:
        """What is behind diskcache's `Timeout`, which hides why a transaction could not begin."""
        if isinstance(error, diskcache.Timeout) and self._cache is not None:
            try:
                self._cache._sql("BEGIN IMMEDIATE")
                self._cache._sql("ROLLBACK")
            except _REFUSALS as cause:
                return cause
        return error

    def _set_aside(self, error: Exception) -> None:
        """Move the damaged database and its frames out of the way; they are removed later, piece by piece."""
        log.warning(
            "block store %s is damaged and is begun anew: %s: %s", self.frames, type(error).__name__, error
        )
        self._cache = None
        self.used_bytes = 0
        self.set_aside_count += 1
        try:
            if self.frames.exists():
                self.frames.rename(self._free_name())
        except OSError as failure:
            raise StoreTrouble(_judge(failure) or Trouble.IO, str(failure)) from failure

    def _free_name(self) -> Path:
        number = 1
        while (path := self.directory / f"{FRAMES}.damaged-{number}").exists():
            number += 1
        return path

    def _clean(self) -> Iterator[None]:
        """All chores after an opening, in short pieces: first the room that nobody uses, then strays."""
        for path in sorted(self.directory.glob(f"{FRAMES}.damaged-*")):
            yield from remove_slowly(path)
        for number in range(_FOLDERS):
            yield from self._sweep(number)

    def _sweep(self, number: int) -> Iterator[None]:
        """Make files and rows of one directory agree: a kill between the two leaves strays.

        The directory is listed once and taken in 16 pieces; frames come and go between them, so that a row
        whose file was not listed is asked for once more.
        """
        files = set(os.listdir(self.frames / f"{number:x}"))
        for first in range(number * _FOLDERS, (number + 1) * _FOLDERS):
            assert self._cache is not None
            disk = self._cache.disk
            named = {filename: key for key, filename in _rows(self._cache, first)}
            listed = {f"{number:x}/{name}" for name in files if name.startswith(f"{first:02x}")}
            for filename in listed - named.keys():
                disk.remove(filename)
            with self._cache.transact():
                for filename in named.keys() - listed:
                    if not disk.has(filename):
                        self._cache.delete(named[filename])
            yield


def _lifetime(pinned: bool) -> float:
    return HORIZON_S + PINNED_S if pinned else HORIZON_S


def _rows(cache: diskcache.Cache, first: int) -> list[tuple[bytes, str]]:
    """Key and file of all rows whose key begins with the byte `first`."""
    found: list[tuple[bytes, str]] = cache._sql(
        "SELECT key, filename FROM Cache WHERE key >= ? AND key < ? AND raw = 1",
        (bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 64),
    ).fetchall()
    return found


def _sum_up(cache: diskcache.Cache) -> None:
    (sums,) = cache._sql("SELECT CAST(COALESCE(SUM(size), 0) AS INTEGER), COUNT(*) FROM Cache").fetchall()
    for row in zip(("size", "count"), sums, strict=True):
        cache._sql("INSERT OR REPLACE INTO Settings VALUES (?, ?)", row)


def _keep_sum(cache: diskcache.Cache) -> None:
    """A planted size that is no number makes the sum none when its row goes, which would look like damage."""
    if cache._sql("SELECT 1 FROM Settings WHERE key = 'size' AND typeof(value) != 'integer'").fetchall():
        _sum_up(cache)


def _threshold(cache: diskcache.Cache, free_bytes: int) -> float:
    """The `expire_time` below which frames of at least `free_bytes` lie, or all of them."""
    total = 0
    last = 0.0
    rows = cache._sql("SELECT expire_time, size FROM Cache WHERE expire_time > 0 ORDER BY expire_time")
    for expires, size in rows:
        last = expires
        total += size
        if total >= free_bytes:
            break
    rows.close()
    return nextafter(last, inf)


def _close(cache: diskcache.Cache) -> None:
    """Close this thread's connection; a connection that cannot even be closed is left to the collector."""
    try:
        cache.close()
    except sqlite3.Error:
        pass


def _judge(error: Exception) -> Trouble | None:
    """`judge`, which need not know diskcache."""
    return Trouble.DATABASE if isinstance(error, diskcache.Timeout) else judge(error)
