"""Makes rows, value files and sums agree again, in the writer thread: by itself after an opening (`chores`), and
where a check found that they do not.

A kill between a file and its row leaves strays; a row that somebody planted may hold anything. Nothing is mended
but numbers: what does not agree is deleted, and is a miss.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lazysif.cache.frame_database import FRAMES, DiskCache
from lazysif.cache.frame_disk import FOLDERS
from lazysif.cache.value_file import remove_slowly


def chores(directory: Path, cache: DiskCache) -> Iterator[None]:
    """All that is to be done after an opening, in short pieces: first the room that nobody uses, then strays.

    Args:
        directory: of the cache.
        cache: must be the open database at each piece.
    """
    yield from remove_set_aside(directory)
    for number in range(FOLDERS):
        yield from _sweep(directory / FRAMES, cache, number)


def remove_set_aside(directory: Path) -> Iterator[None]:
    """Remove the databases set aside and their frames, in short pieces; it needs no database."""
    for path in sorted(directory.glob(f"{FRAMES}.damaged-*")):
        yield from remove_slowly(path)


def _sweep(frames: Path, cache: DiskCache, number: int) -> Iterator[None]:
    """Make files and rows of one directory agree: a kill between the two leaves strays.

    The directory is listed once and taken in 16 pieces; frames come and go between them, so that a row
    whose file was not listed is asked for once more.
    """
    files = set(os.listdir(frames / f"{number:x}"))
    for first in range(number * FOLDERS, (number + 1) * FOLDERS):
        named = {filename: key for key, filename in _rows(cache, first)}
        listed = {f"{number:x}/{name}" for name in files if name.startswith(f"{first:02x}")}
        for filename in listed - named.keys():
            cache.disk.remove(filename)
        with cache.transact():
            for filename in named.keys() - listed:
                if not cache.disk.has(filename):
                    cache.delete(named[filename])
        yield


def strike_rows(cache: DiskCache, rows: Iterable[tuple[int, bytes | None]]) -> int:
    """Delete rows by number, where they name the file that they named; returns how many there were."""
    statement = "DELETE FROM Cache WHERE rowid = ? AND CAST(filename AS BLOB) IS ?"
    with cache.transact():
        struck = [name for number, name in rows if cache._sql(statement, (number, name)).rowcount]
        _keep_sum(cache)
    for name in struck:
        cache.disk.remove(name.decode("utf-8", "replace") if name is not None else None)
    return len(struck)


def correct_sizes(cache: DiskCache, rows: Iterable[tuple[int, bytes, int]]) -> None:
    """Set what rows say that their files occupy: (row number, file, right size)."""
    statement = "UPDATE Cache SET size = ? WHERE rowid = ? AND CAST(filename AS BLOB) IS ?"
    with cache.transact():
        for number, name, size in rows:
            cache._sql(statement, (size, number, name))
        _keep_sum(cache)


def recount(cache: DiskCache) -> None:
    """Set the sums that diskcache's triggers keep to what the rows add up to."""
    with cache.transact():
        _sum_up(cache)


def remove_orphans(cache: DiskCache, filenames: Iterable[str]) -> int:
    """Remove value files that no row names; returns how many."""
    by_first: dict[int, set[str]] = {}
    for filename in filenames:
        by_first.setdefault(int(filename[2:4], 16), set()).add(filename)
    for first, names in by_first.items():
        names -= {filename for _, filename in _rows(cache, first)}
        for filename in names:
            cache.disk.remove(filename)
    return sum(map(len, by_first.values()))


def _rows(cache: DiskCache, first: int) -> list[tuple[bytes, str]]:
    """Key and file of all rows whose key begins with the byte `first`."""
    found: list[tuple[bytes, str]] = cache._sql(
        "SELECT key, filename FROM Cache WHERE key >= ? AND key < ? AND raw = 1",
        (bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 64),
    ).fetchall()
    return found


def _sum_up(cache: DiskCache) -> None:
    (sums,) = cache._sql("SELECT CAST(COALESCE(SUM(size), 0) AS INTEGER), COUNT(*) FROM Cache").fetchall()
    for row in zip(("size", "count"), sums, strict=True):
        cache._sql("INSERT OR REPLACE INTO Settings VALUES (?, ?)", row)


def _keep_sum(cache: DiskCache) -> None:
    """A planted size that is no number makes the sum none when its row goes, which would look like damage."""
    if cache._sql("SELECT 1 FROM Settings WHERE key = 'size' AND typeof(value) != 'integer'").fetchall():
        _sum_up(cache)
