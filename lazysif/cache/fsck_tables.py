"""Every record of the block tables: whether it is believed, and whether its frame is there. Only reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lazysif.cache.fsck_database import DamagedDatabase, DatabaseView
from lazysif.cache.fsck_repair import DiscardTable, Repair, StrikeRecords
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.table_file import (
    DIGEST_BYTES,
    EMPTY_RECORD,
    RECORD_BYTES,
    TABLES,
    binding,
    open_table,
    parse_name,
)
from lazysif.cache.trouble import StoreTrouble, judge
from lazysif.model import Digest

_ROWS = 512
_PIECE_RECORDS = 1024


class TableSurvey:
    """All block tables of one cache directory.

    Args:
        directory: of the cache.
        view: of the database of frames.
        report: is filled in.
        waiting: whether a frame is about to be written; may be called from any thread.
    """

    def __init__(
        self, directory: Path, view: DatabaseView, report: Report, waiting: Callable[[Digest], bool]
    ) -> None:
        self._tables = directory / TABLES
        self._view = view
        self._report = report
        self._waiting = waiting

    def steps(self) -> Iterator[list[Repair]]:
        """Check all of them; see `Survey.steps`."""
        try:
            names = [name for name in os.listdir(self._tables) if parse_name(name)]
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreTrouble(judge(error), f"tables cannot be listed: {error}") from error  # type: ignore[arg-type]
        self._report.tables_total = len(names)
        for name in sorted(names):
            yield from self._check_table(name)
            self._report.tables += 1

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
            self._report.count(Kind.TABLES)
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
            self._report.count(Kind.TABLES)
            yield [DiscardTable(path, image_id, count)]
        finally:
            os.close(fd)

    def _check_records(self, image: bytes, first: int, records: bytes) -> list[tuple[int, bytes]]:
        wrong: list[tuple[int, bytes]] = []
        sound: list[tuple[int, bytes]] = []
        for position in range(0, len(records) - RECORD_BYTES + 1, RECORD_BYTES):
            record = records[position : position + RECORD_BYTES]
            if record == EMPTY_RECORD:
                continue
            index = first + position // RECORD_BYTES
            believed = record[DIGEST_BYTES:] == binding(image, index, record[:DIGEST_BYTES])
            (sound if believed else wrong).append((index, record))
        self._report.records += len(wrong) + len(sound)
        self._report.count(Kind.RECORDS, len(wrong))
        gone = self._gone({Digest(record[:DIGEST_BYTES]) for _, record in sound})
        stale = [(index, record) for index, record in sound if record[:DIGEST_BYTES] in gone]
        self._report.count(Kind.STALE, len(stale))
        return sorted(wrong + stale)

    def _gone(self, digests: set[Digest]) -> set[Digest]:
        """Those that are neither stored nor about to be: what waits is asked first, so that none slips through."""
        missing = [digest for digest in digests if not self._waiting(digest)]
        gone = set(missing)
        if gone and os.path.isfile(self._view.frames / "cache.db"):
            try:
                for first in range(0, len(missing), _ROWS):
                    some = missing[first : first + _ROWS]
                    marks = ",".join("?" * len(some))
                    rows = self._view.query(f"SELECT key FROM Cache WHERE raw = 1 AND key IN ({marks})", some)
                    gone.difference_update(key for (key,) in rows)
            except DamagedDatabase:
                return set()  # a dry run over a damaged database: who knows
        return gone
