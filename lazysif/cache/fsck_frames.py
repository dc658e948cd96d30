"""Every row of the store with the frame that it names, and then the files that no row names. Only reads.

Memory is bounded: by the names of 1/16 of the value files (1/256 from two million frames on), and by what one piece
turns up.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lazysif.cache.frame import DamagedFrame, decode
from lazysif.cache.frame_disk import VALUE_FILE, VALUE_MODE, stored_bytes
from lazysif.cache.fsck_database import DatabaseView
from lazysif.cache.fsck_repair import CorrectSizes, DiscardRows, RemoveOrphans, Repair
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.trouble import StoreTrouble, judge
from lazysif.cache.value_file import read_file
from lazysif.core.disk_health import STRIKES
from lazysif.model import Digest

YOUNG_S = 60.0
"""A file without a row that is younger may be one whose transaction is not yet complete."""
_ROWS = 512
_PIECE_FRAMES = 64
_PIECE_BYTES = 2 * 2**20
"""What one step reads at most, and a frame: 1 to 4 ms from the page cache, 20 ms from a slow disk."""
_SPLIT_AT = 2_000_000


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    key: bytes
    ours: bool
    filename: bytes | None
    size: int


class FrameSurvey:
    """Rows and the frames that they name, in the order of row numbers.

    Args:
        view: of the database.
        report: is filled in.
    """

    def __init__(self, view: DatabaseView, report: Report) -> None:
        self._view = view
        self._report = report
        self._unreadable_in_a_row = 0

    def steps(self) -> Iterator[list[Repair]]:
        """Check all of them; see `Survey.steps`."""
        last: int | None = None
        while rows := self._rows(last):
            for first in range(0, len(rows), _PIECE_FRAMES):
                yield from self._check_some(rows[first : first + _PIECE_FRAMES])
            last = rows[-1].number

    def _rows(self, last: int | None) -> list[_Row]:
        """The next rows by number; with casts, since a row that somebody planted may hold anything."""
        where, arguments = ("", ()) if last is None else ("WHERE rowid > ?", (last,))
        found = self._view.query(
            "SELECT rowid, CAST(key AS BLOB), typeof(key) = 'blob' AND length(key) = 32 AND raw = 1"
            f" AND mode = {VALUE_MODE} AND typeof(filename) = 'text' AND typeof(expire_time) = 'real',"
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
            self._report.frames += 1
            self._report.frame_bytes += size
            read_bytes += size
            occupied = stored_bytes(size)
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
            frame = read_file(str(self._view.frames / name))
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
            still = set(self._view.query(statement, bad))
            rows = [(kind, row) for kind, row in bad.values() if (row.number, row.filename) in still]
            for kind, _ in rows:
                self._report.count(kind)
            if rows:
                repairs.append(DiscardRows([(row.number, row.filename) for _, row in rows]))
        if sizes:
            self._report.count(Kind.SIZES, len(sizes))
            repairs.append(CorrectSizes(sizes))
        return repairs


def check_orphans(view: DatabaseView, report: Report) -> Iterator[list[Repair]]:
    """Look for value files that no row names; see `Survey.steps`."""
    digits = "0123456789abcdef"
    large = report.frames_total > _SPLIT_AT
    for folder in digits:
        for prefix in [folder + digit for digit in digits] if large else [folder]:
            yield from _check_folder(view, report, folder, prefix)


def _check_folder(view: DatabaseView, report: Report, folder: str, prefix: str) -> Iterator[list[Repair]]:
    try:
        with os.scandir(view.frames / folder) as entries:
            names = {f"{folder}/{entry.name}" for entry in entries if entry.name.startswith(prefix)}
    except OSError:
        return  # made anew when the daemon opens it; what it should hold was found missing above
    yield []
    last = bytes.fromhex(prefix.ljust(2, "0"))
    stop = bytes.fromhex(prefix.ljust(2, "f")) + b"\xff" * 64
    while rows := view.query(
        "SELECT key, CAST(filename AS BLOB) FROM Cache WHERE key > ? AND key < ? AND raw = 1"
        " ORDER BY key LIMIT 1024",
        (last, stop),
    ):
        names.difference_update([(name or b"").decode("utf-8", "replace") for _, name in rows])
        last = rows[-1][0]
        yield []
    orphans = sorted(name for name in names if VALUE_FILE.fullmatch(name) and _is_old(view, name))
    for first in range(0, len(orphans), _ROWS):
        some = orphans[first : first + _ROWS]
        report.count(Kind.ORPHANS, len(some))
        yield [RemoveOrphans(some)]


def _is_old(view: DatabaseView, filename: str) -> bool:
    try:
        found = os.lstat(view.frames / filename)
    except OSError:
        return False
    return found.st_mtime < time.time() - YOUNG_S and not stat.S_ISDIR(found.st_mode)
