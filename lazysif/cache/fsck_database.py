"""The database of the store as a check sees it: its structure, and the sums that it keeps. Only reads."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lazysif.cache.fsck_repair import Recount, Repair
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.trouble import StoreTrouble, judge


class DamagedDatabase(Exception):
    """The database cannot be read as one."""


class DatabaseView:
    """Reads the database beside the frames.

    Args:
        frames: directory of the frames.
    """

    def __init__(self, frames: Path) -> None:
        self.frames = frames

    def exists(self) -> bool:
        """Whether there is one. Raises: DamagedDatabase, where something else is in its place."""
        path = self.frames / "cache.db"
        if not os.path.lexists(path):
            return False
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DamagedDatabase("cache.db is not a regular file")
        return True

    def query(self, statement: str, arguments: Iterable[object] = ()) -> list[Any]:
        """All rows of a short answer, over a connection that lives no longer: the daemon closes all of its own at
        one time when its disk was sick, and none of ours may be left.

        Raises:
            DamagedDatabase: it cannot be read as a database.
            StoreTrouble: the disk refused.
        """
        uri = (self.frames / "cache.db").absolute().as_uri()
        try:
            with closing(
                sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=5, isolation_level=None)
            ) as base:
                base.execute("PRAGMA query_only = 1")
                return base.execute(statement, tuple(arguments)).fetchall()
        except sqlite3.Error as error:
            trouble = judge(error)
            if trouble is None:
                raise DamagedDatabase(str(error)) from error
            raise StoreTrouble(trouble, f"the database cannot be read: {error}") from error


def check_structure(view: DatabaseView, report: Report) -> Iterator[list[Repair]]:
    """Check the structure, indices included: 1 s for a million frames, without the GIL.

    Raises:
        DamagedDatabase: it is not sound.
        StoreTrouble: the disk refused.
    """
    ((verdict,),) = view.query("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise DamagedDatabase(str(verdict).replace("\n", " "))
    ((report.frames_total,),) = view.query("SELECT COUNT(*) FROM Cache")
    yield []


def check_sums(view: DatabaseView, report: Report) -> Iterator[list[Repair]]:
    """Compare the sums with the rows, in one statement, so of one moment.

    Before rows are deleted: a sum that falls below 0 is taken for damage of the whole database.
    """
    ((size, count, said_size, said_count),) = view.query(
        "SELECT (SELECT COALESCE(SUM(size), 0) FROM Cache), (SELECT COUNT(*) FROM Cache),"
        " (SELECT value FROM Settings WHERE key = 'size'), (SELECT value FROM Settings WHERE key = 'count')"
    )
    if (size, count) != (said_size, said_count):
        report.count(Kind.SUMS)
        yield [Recount()]
