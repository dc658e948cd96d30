"""What a check says is to be done about what it found, and how that is done: always by discarding.

A cache may lose anything and must not serve anything wrong, so nothing is mended: what is damaged goes, and is
fetched again by who wants it. Between looking and repairing things change under a daemon, so every repair looks
once more and leaves alone what is not as it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lazysif.cache.store import FrameStore
from lazysif.cache.table_file import open_table, strike_records
from lazysif.cache.trouble import StoreTrouble, judge
from lazysif.model import ImageId


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
