"""Rows of new frames in diskcache's table, many in one statement. Blocking.

`diskcache.Cache.set` takes 40 µs a row and lets go of the GIL at each of its four steps, which costs more where other
threads are busy: files and rows of 1 GiB took 1.15 s of user time with it, and 0.55 s in this way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from lazysif.model import Digest

_AT_ONCE = (64, 8, 1)
"""Rows of one statement: few lengths, so that SQLite need not compile it anew."""
_APART_S = 1e-5
"""Between the first uses of rows that come together, so that they go in the order in which they came."""

Sql = Callable[[str, Sequence[object]], sqlite3.Cursor]


@dataclass(frozen=True, slots=True)
class Row:
    """One frame whose file is there.

    Args:
        filename: below the directory of the frames.
        stored_bytes: what it occupies on disk.
        lifetime_s: until it expires.
    """

    digest: Digest
    filename: str
    stored_bytes: int
    lifetime_s: float


def present(sql: Sql, digests: Sequence[Digest], now: float) -> set[Digest]:
    """Those of the digests that have a row which has not expired."""
    found: set[Digest] = set()
    start = 0
    for count in _AT_ONCE:
        while len(digests) - start >= count:
            found.update(key for (key,) in sql(_question(count), (*digests[start : start + count], now)))
            start += count
    return found


def insert(sql: Sql, rows: Sequence[Row], mode: int, now: float) -> None:
    """Make rows as `diskcache.Cache.set` does; an expired one is overwritten, and its file left to be swept."""
    start = 0
    for count in _AT_ONCE:
        while len(rows) - start >= count:
            values: list[object] = []
            for number in range(start, start + count):
                row = rows[number]
                expires = now + row.lifetime_s + number * _APART_S
                values += (row.digest, now, expires, now, row.stored_bytes, mode, row.filename)
            sql(_insertion(count), values)
            start += count


@cache
def _question(count: int) -> str:
    holes = ", ".join("?" * count)
    return f"SELECT key FROM Cache WHERE key IN ({holes}) AND raw = 1 AND expire_time > ?"


@cache
def _insertion(count: int) -> str:
    columns = ("store_time", "expire_time", "access_time", "size", "mode", "filename")
    rows = ", ".join(["(?, 1, 0, ?, ?, ?, ?, ?, ?)"] * count)
    renewed = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO Cache(key, raw, access_count, {', '.join(columns)}) VALUES {rows} "
        f"ON CONFLICT(key, raw) DO UPDATE SET {renewed}"
    )
