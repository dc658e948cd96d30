"""What an error of SQLite or of the file system says about the disk, or about the database on it."""

from __future__ import annotations

import errno
import sqlite3
import stat
from pathlib import Path

from lazysif.core.disk_health import Trouble


class StoreTrouble(Exception):
    """The disk or the database refused; what was asked was not done. Never leaves the cache."""

    def __init__(self, trouble: Trouble, why: str) -> None:
        super().__init__(why)
        self.trouble = trouble


_TROUBLES = {
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_IOERR: Trouble.IO,
    sqlite3.SQLITE_BUSY: Trouble.DATABASE,
    sqlite3.SQLITE_LOCKED: Trouble.DATABASE,
    sqlite3.SQLITE_NOMEM: Trouble.DATABASE,
    sqlite3.SQLITE_CANTOPEN: Trouble.DATABASE,
    sqlite3.SQLITE_PERM: Trouble.DATABASE,
}
_DAMAGE = frozenset((sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_IOERR_SHORT_READ))


def judge(error: Exception) -> Trouble | None:
    """What kind of trouble an error is; None where it means that the database is damaged.

    Our statements never change, so an SQL error ("no such table") is a database that is not ours any more.
    """
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return None if code in _DAMAGE else _TROUBLES.get(code & 0xFF)
    if isinstance(error, OSError):
        return judge_os(error)
    return None


def judge_os(error: OSError) -> Trouble:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Trouble.FULL
    return Trouble.READ_ONLY if error.errno == errno.EROFS else Trouble.IO


def check_readable(frames: Path) -> None:
    """Read the database in `frames` through, some 230 bytes a frame, much of it from the page cache.

    Raises: StoreTrouble: the disk does not give its bytes, which SQLite may call damage.
    """
    for name in ("cache.db", "cache.db-wal"):
        try:
            _read_through(frames / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            trouble = judge_os(error)
            raise StoreTrouble(trouble, f"the disk does not let the database be read: {trouble}") from error


def _read_through(path: Path) -> None:
    """Raises: OSError: a regular file there cannot be read to its end."""
    if stat.S_ISREG(path.lstat().st_mode):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
