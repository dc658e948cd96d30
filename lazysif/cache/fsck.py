"""Checks all that lies in a cache directory, and repairs by discarding: frames, rows, files, sums, block tables.

A cache may lose anything and must not serve anything wrong, so nothing is mended: what is damaged goes, and is
fetched again by who wants it. Reads never trust what is checked here; the point of a check is to know the disk,
and to give back room that nobody can use.

`Survey` only reads, in short pieces (`steps`), with a connection of its own that is closed after each piece, and
says what is to be done; `repair` does it, in the store's writer thread. Between the two things change under a
daemon, so every repair looks once more and leaves alone what is not as it was. Memory is bounded: by the names
of 1/16 of the value files (1/256 from two million frames on), and by what one piece turns up.

`check_offline` joins them for a directory that no daemon uses; `fsck_online` for one that a daemon serves.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lazysif.cache.block_table import (
    DIGEST_BYTES,
    RECORD_BYTES,
    TABLES,
    binding,
    open_table,
    parse_name,
    strike_records,
)
from lazysif.cache.frame import DamagedFrame, decode
from lazysif.cache.store import FRAMES, VALUE_FILE, FrameStore
from lazysif.cache.trouble import StoreTrouble, judge
from lazysif.cache.value_file import read_file, remove_slowly
from lazysif.core.disk_health import STRIKES
from lazysif.errors import LocalDirectoryError
from lazysif.model import Digest, ImageId

YOUNG_S = 60.0
"""A file without a row that is younger may be one whose transaction is not yet complete."""
_PAGE = 4096
_BINARY = 2
"""diskcache's mode of a value that is plain bytes in a file of its own."""
_ROWS = 512
_PIECE_FRAMES = 64
_PIECE_BYTES = 2 * 2**20
"""What one step reads at most, and a frame: 1 to 4 ms from the page cache, 20 ms from a slow disk."""
_PIECE_RECORDS = 1024
_SPLIT_AT = 2_000_000
_EMPTY = bytes(RECORD_BYTES)


class Kind(StrEnum):
    """What can be found, in the order of the report."""

    DATABASES = "damaged_databases"
    FRAMES = "damaged_frames"
    UNREADABLE = "unreadable_frames"
    NO_FILE = "rows_without_file"
    FOREIGN = "foreign_rows"
    SIZES = "wrong_sizes"
    SUMS = "wrong_sums"
    ORPHANS = "orphan_files"
    TABLES = "damaged_tables"
    RECORDS = "damaged_records"
    STALE = "stale_records"


@dataclass(slots=True)
class Report:
    """What a check has seen so far; written by one thread and read by any.

    Args:
        directory: of the cache.
        dry_run: nothing is changed.
        online: done by the daemon that uses the directory.
        frames_total: frames there were when it began; 0 until that is known.
        frames, frame_bytes: checked so far, as they lie on disk.
        tables_total, tables, records: likewise for block tables.
        found: how often, by kind.
        running: whether it goes on.
        stopped: why it ended before it was through, else "".
        seconds: how long it took.
    """

    directory: str
    dry_run: bool = False
    online: bool = False
    frames_total: int = 0
    frames: int = 0
    frame_bytes: int = 0
    tables_total: int = 0
    tables: int = 0
    records: int = 0
    found: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    running: bool = True
    stopped: str = ""
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing was wrong. Records of frames that were evicted are no fault: every full cache has them."""
        return not any(count for kind, count in self.found.items() if kind is not Kind.STALE)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "found"}
        return {**fields, "clean": self.clean, "found": {str(k): n for k, n in self.found.items()}}

    def count(self, kind: Kind, number: int = 1) -> None:
        self.found[kind] += number


# --- what is to be done --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiscardDatabase:
    """Set the database aside with all its frames."""

    why: str


@dataclass(frozen=True, slots=True)
class DiscardRows:
    """Delete rows and the files that they name: (row number, file)."""

    rows: list[tuple[int, bytes | None]]


@dataclass(frozen=True, slots=True)
class CorrectSizes:
    """Rows that say that their file occupies something else: (row number, file, right size)."""

    rows: list[tuple[int, bytes, int]]


@dataclass(frozen=True, slots=True)
class RemoveOrphans:
    """Remove value files that no row names."""

    filenames: list[str]


@dataclass(frozen=True, slots=True)
class Recount:
    """Compute anew what all rows add up to."""


@dataclass(frozen=True, slots=True)
class DiscardTable:
    """Delete the file of a block table that is none."""

    path: Path
    image_id: ImageId
    count: int


@dataclass(frozen=True, slots=True)
class StrikeRecords:
    """Make records of a block table unknown: (block index, the whole record as it lies there)."""

    path: Path
    image_id: ImageId
    count: int
    records: list[tuple[int, bytes]]


Repair = DiscardDatabase | DiscardRows | CorrectSizes | RemoveOrphans | Recount | DiscardTable | StrikeRecords


def repair(store: FrameStore, what: Repair) -> None:
    """Do it, where all is still as it was found. Blocking, in the store's writer thread.

    Raises:
        StoreTrouble: the disk refused.
    """
    try:
        match what:
            case DiscardDatabase(why):
                store.begin_anew(why)
            case DiscardRows(rows):
                store.strike_rows(rows)
            case CorrectSizes(rows=sizes):
                store.correct_sizes(sizes)
            case RemoveOrphans(filenames):
                store.remove_orphans(filenames)
            case Recount():
                store.recount()
            case DiscardTable(path, image_id, count):
                _discard_table(path, image_id, count)
            case StrikeRecords(path=path, records=records):
                strike_records(path, records)
    except FileNotFoundError:
        pass  # a table that went by itself
    except OSError as error:
        trouble = judge(error)
        assert trouble is not None
        raise StoreTrouble(trouble, str(error)) from error


def _discard_table(path: Path, image_id: ImageId, count: int) -> None:
    try:
        fd = open_table(path, image_id, count)
    except OSError:
        fd = None
    if fd is not None:
        os.close(fd)  # written anew meanwhile
    elif not path.is_dir() or path.is_symlink():
        path.unlink()


# --- looking -------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """The database cannot be read as one."""


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    key: bytes
    ours: bool
    filename: bytes | None
    size: int


class Survey:
    """One check of one directory.

    Args:
        directory: of the cache.
        report: is filled in.
        waiting: whether a frame is about to be written; may be called from any thread.
    """

    def __init__(
        self, directory: Path, report: Report, waiting: Callable[[Digest], bool] = lambda _: False
    ) -> None:
        self.report = report
        self._frames = directory / FRAMES
        self._tables = directory / TABLES
        self._waiting = waiting
        self._unreadable_in_a_row = 0

    def steps(self) -> Iterator[list[Repair]]:
        """Do a piece of it at each step, and say what is to be done about what it turned up.

        The repairs of a step are to be done before the next one.

        Raises:
            StoreTrouble: the disk is too sick for a check to mean anything.
        """
        try:
            if self._has_database():
                yield from self._check_database()
                yield from self._check_sums()
                yield from self._check_frames()
                yield from self._check_orphans()
        except _Damaged as error:
            self.report.count(Kind.DATABASES)
            yield [DiscardDatabase(str(error))]
        yield from self._check_tables()

    # --- the database ---

    def _has_database(self) -> bool:
        path = self._frames / "cache.db"
        if not os.path.lexists(path):
            return False
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _Damaged("cache.db is not a regular file")
        return True

    def _query(self, statement: str, arguments: Iterable[object] = ()) -> list[Any]:
        """All rows of a short answer, over a connection that lives no longer: the daemon closes all of its own at
        one time when its disk was sick, and none of ours may be left."""
        uri = (self._frames / "cache.db").absolute().as_uri()
        try:
            with closing(
                sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=5, isolation_level=None)
            ) as base:
                base.execute("PRAGMA query_only = 1")
                return base.execute(statement, tuple(arguments)).fetchall()
        except sqlite3.Error as error:
            trouble = judge(error)
            if trouble is None:
                raise _Damaged(str(error)) from error
            raise StoreTrouble(trouble, f"the database cannot be read: {error}") from error

    def _check_database(self) -> Iterator[list[Repair]]:
        """Its structure, indices included: 1 s for a million frames, without the GIL."""
        ((verdict,),) = self._query("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise _Damaged(str(verdict).replace("\n", " "))
        ((self.report.frames_total,),) = self._query("SELECT COUNT(*) FROM Cache")
        yield []

    def _check_frames(self) -> Iterator[list[Repair]]:
        last: int | None = None
        while rows := self._rows(last):
            for first in range(0, len(rows), _PIECE_FRAMES):
                yield from self._check_some(rows[first : first + _PIECE_FRAMES])
            last = rows[-1].number

    def _rows(self, last: int | None) -> list[_Row]:
        """The next rows by number; with casts, since a row that somebody planted may hold anything."""
        where, arguments = ("", ()) if last is None else ("WHERE rowid > ?", (last,))
        found = self._query(
            "SELECT rowid, CAST(key AS BLOB), typeof(key) = 'blob' AND length(key) = 32 AND raw = 1"
            f" AND mode = {_BINARY} AND typeof(filename) = 'text' AND typeof(expire_time) = 'real',"
            f" CAST(filename AS BLOB), CAST(size AS INTEGER) FROM Cache {where} ORDER BY rowid LIMIT {_ROWS}",
            arguments,
        )
        return [_Row(*columns) for columns in found]

    def _check_some(self, rows: list[_Row]) -> Iterator[list[Repair]]:
        bad: dict[int, tuple[Kind, _Row]] = {}
        sizes: list[tuple[int, bytes, int]] = []
        read_bytes = 0
        for row in rows:
            try:
                kind, size = self._judge(row)
            except OSError as error:
                raise StoreTrouble(judge(error), f"frames cannot be read: {error}") from error  # type: ignore[arg-type]
            self.report.frames += 1
            self.report.frame_bytes += size
            read_bytes += size
            occupied = -(-size // _PAGE) * _PAGE
            if kind is not None:
                bad[row.number] = (kind, row)
            elif occupied != row.size and row.filename is not None:
                sizes.append((row.number, row.filename, occupied))
            if read_bytes >= _PIECE_BYTES:
                yield self._confirmed(bad, sizes)
                bad, sizes, read_bytes = {}, [], 0
        yield self._confirmed(bad, sizes)

    def _judge(self, row: _Row) -> tuple[Kind | None, int]:
        """What is wrong with a row, and how many bytes its file has. Raises: OSError (of a disk that refuses all)."""
        name = (row.filename or b"").decode("utf-8", "replace")
        if not row.ours or not VALUE_FILE.fullmatch(name) or int(name[2:4], 16) != row.key[0]:
            return Kind.FOREIGN, 0
        try:
            frame = read_file(str(self._frames / name))
        except FileNotFoundError:
            return Kind.NO_FILE, 0
        except DamagedFrame:
            return Kind.FRAMES, 0
        except OSError:
            self._unreadable_in_a_row += 1
            if self._unreadable_in_a_row >= STRIKES:
                raise
            return Kind.UNREADABLE, 0
        self._unreadable_in_a_row = 0
        try:
            decode(frame, Digest(row.key))
        except DamagedFrame:
            return Kind.FRAMES, len(frame)
        return None, len(frame)

    def _confirmed(
        self, bad: dict[int, tuple[Kind, _Row]], sizes: list[tuple[int, bytes, int]]
    ) -> list[Repair]:
        """What is still there: a frame that was evicted meanwhile looks like a row without its file."""
        repairs: list[Repair] = []
        if bad:
            marks = ",".join("?" * len(bad))
            statement = f"SELECT rowid, CAST(filename AS BLOB) FROM Cache WHERE rowid IN ({marks})"
            still = set(self._query(statement, bad))
            rows = [(kind, row) for kind, row in bad.values() if (row.number, row.filename) in still]
            for kind, _ in rows:
                self.report.count(kind)
            if rows:
                repairs.append(DiscardRows([(row.number, row.filename) for _, row in rows]))
        if sizes:
            self.report.count(Kind.SIZES, len(sizes))
            repairs.append(CorrectSizes(sizes))
        return repairs

    # --- files and sums ---

    def _check_orphans(self) -> Iterator[list[Repair]]:
        digits = "0123456789abcdef"
        large = self.report.frames_total > _SPLIT_AT
        for folder in digits:
            for prefix in [folder + digit for digit in digits] if large else [folder]:
                yield from self._check_folder(folder, prefix)

    def _check_folder(self, folder: str, prefix: str) -> Iterator[list[Repair]]:
        try:
            with os.scandir(self._frames / folder) as entries:
                names = {f"{folder}/{entry.name}" for entry in entries if entry.name.startswith(prefix)}
        except OSError:
            return  # made anew when the daemon opens it; what it should hold was found missing above
        yield []
        last = bytes.fromhex(prefix.ljust(2, "0"))
        stop = bytes.fromhex(prefix.ljust(2, "f")) + b"\xff" * 64
        while rows := self._query(
            "SELECT key, CAST(filename AS BLOB) FROM Cache WHERE key > ? AND key < ? AND raw = 1"
            " ORDER BY key LIMIT 1024",
            (last, stop),
        ):
            names.difference_update([(name or b"").decode("utf-8", "replace") for _, name in rows])
            last = rows[-1][0]
            yield []
        orphans = sorted(name for name in names if VALUE_FILE.fullmatch(name) and self._is_old(name))
        for first in range(0, len(orphans), _ROWS):
            some = orphans[first : first + _ROWS]
            self.report.count(Kind.ORPHANS, len(some))
            yield [RemoveOrphans(some)]

    def _is_old(self, filename: str) -> bool:
        try:
            found = os.lstat(self._frames / filename)
        except OSError:
            return False
        return found.st_mtime < time.time() - YOUNG_S and not stat.S_ISDIR(found.st_mode)

    def _check_sums(self) -> Iterator[list[Repair]]:
        """In one statement, so of one moment. Before rows are deleted: a sum that falls below 0 is taken for damage
        of the whole database."""
        ((size, count, said_size, said_count),) = self._query(
            "SELECT (SELECT COALESCE(SUM(size), 0) FROM Cache), (SELECT COUNT(*) FROM Cache),"
            " (SELECT value FROM Settings WHERE key = 'size'), (SELECT value FROM Settings WHERE key = 'count')"
        )
        if (size, count) != (said_size, said_count):
            self.report.count(Kind.SUMS)
            yield [Recount()]

    # --- block tables ---

    def _check_tables(self) -> Iterator[list[Repair]]:
        try:
            names = [name for name in os.listdir(self._tables) if parse_name(name)]
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreTrouble(judge(error), f"tables cannot be listed: {error}") from error  # type: ignore[arg-type]
        self.report.tables_total = len(names)
        for name in sorted(names):
            yield from self._check_table(name)
            self.report.tables += 1

    def _check_table(self, name: str) -> Iterator[list[Repair]]:
        parsed = parse_name(name)
        assert parsed is not None
        image_id, count = parsed
        path = self._tables / name
        try:
            fd = open_table(path, image_id, count)
        except FileNotFoundError:
            return  # deleted meanwhile
        except OSError:
            fd = None
        if fd is None:
            self.report.count(Kind.TABLES)
            yield [DiscardTable(path, image_id, count)]
            return
        try:
            for first in range(0, count, _PIECE_RECORDS):
                records = os.pread(
                    fd, min(_PIECE_RECORDS, count - first) * RECORD_BYTES, (1 + first) * RECORD_BYTES
                )
                wrong = self._check_records(bytes.fromhex(image_id), first, records)
                yield [StrikeRecords(path, image_id, count, wrong)] if wrong else []
        except OSError:
            self.report.count(Kind.TABLES)
            yield [DiscardTable(path, image_id, count)]
        finally:
            os.close(fd)

    def _check_records(self, image: bytes, first: int, records: bytes) -> list[tuple[int, bytes]]:
        wrong: list[tuple[int, bytes]] = []
        sound: list[tuple[int, bytes]] = []
        for position in range(0, len(records) - RECORD_BYTES + 1, RECORD_BYTES):
            record = records[position : position + RECORD_BYTES]
            if record == _EMPTY:
                continue
            index = first + position // RECORD_BYTES
            believed = record[DIGEST_BYTES:] == binding(image, index, record[:DIGEST_BYTES])
            (sound if believed else wrong).append((index, record))
        self.report.records += len(wrong) + len(sound)
        self.report.count(Kind.RECORDS, len(wrong))
        gone = self._gone({Digest(record[:DIGEST_BYTES]) for _, record in sound})
        stale = [(index, record) for index, record in sound if record[:DIGEST_BYTES] in gone]
        self.report.count(Kind.STALE, len(stale))
        return sorted(wrong + stale)

    def _gone(self, digests: set[Digest]) -> set[Digest]:
        """Those that are neither stored nor about to be: what waits is asked first, so that none slips through."""
        missing = [digest for digest in digests if not self._waiting(digest)]
        gone = set(missing)
        if gone and os.path.isfile(self._frames / "cache.db"):
            try:
                for first in range(0, len(missing), _ROWS):
                    some = missing[first : first + _ROWS]
                    marks = ",".join("?" * len(some))
                    rows = self._query(f"SELECT key FROM Cache WHERE raw = 1 AND key IN ({marks})", some)
                    gone.difference_update(key for (key,) in rows)
            except _Damaged:
                return set()  # a dry run over a damaged database: who knows
        return gone


# --- a directory that no daemon uses ------------------------------------------------------------------------


def check_offline(directory: Path, *, dry_run: bool, tell: Callable[[Report], None]) -> Report:
    """Check a directory and, without `dry_run`, repair it; `tell` hears of the progress.

    Raises:
        LocalDirectoryError: there is none, a daemon uses it, it is not ours, or its disk is too sick.
    """
    if not os.path.isdir(directory):
        raise LocalDirectoryError(
            f"there is no cache directory {directory}", hint="name it with --cache-dir or --config"
        )
    began = time.monotonic()
    report = Report(str(directory), dry_run=dry_run)
    store = FrameStore(directory)
    try:
        store.claim()
        if not dry_run and os.path.lexists(directory / FRAMES / "cache.db"):
            store.open()
            report.count(Kind.DATABASES, store.set_aside_count)
        for repairs in Survey(directory, report).steps():
            for what in () if dry_run else repairs:
                repair(store, what)
            report.seconds = round(time.monotonic() - began, 3)
            tell(report)
        for path in () if dry_run else sorted(directory.glob(f"{FRAMES}.damaged-*")):
            for _ in remove_slowly(path):
                pass
    except StoreTrouble as error:
        raise LocalDirectoryError(f"cache directory {directory} cannot be checked: {error}") from error
    except OSError as error:
        raise LocalDirectoryError(f"cache directory {directory} cannot be used: {error.strerror}") from error
    finally:
        store.close()
    report.running = False
    report.seconds = round(time.monotonic() - began, 3)
    return report
