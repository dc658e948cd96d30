"""The block tables of a cache directory: which are open, which are unwritten, and the files of the rest.

They belong to the trio thread, as each table does; what blocks says so and runs in the writer thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container
from pathlib import Path
from weakref import WeakValueDictionary

from lazysif.cache.block_table import BlockTable, TableJob
from lazysif.cache.directory import prepare_directory
from lazysif.cache.table_file import TABLES, file_name, read_records
from lazysif.model import ImageId
from lazysif.telemetry import Counters

UNUSED_S = 90 * 86400.0
"""A table not opened for this long is deleted: long after its frames were evicted on any busy node."""


class BlockTables:
    """All block tables of a cache directory. A table stays in memory while somebody holds it or it is
    unwritten.

    Args:
        directory: of the cache; the tables lie in `tables-v1` below it.
        counters: where refused records are counted.
    """

    def __init__(self, directory: Path, counters: Counters | None = None) -> None:
        self.directory = directory / TABLES
        self._counters = counters if counters is not None else Counters()
        self._tables: WeakValueDictionary[Path, BlockTable] = WeakValueDictionary()
        self._unwritten: dict[Path, BlockTable] = {}

    def prepare(self) -> None:
        """Make the directory. Blocking. Raises: LocalDirectoryError, OSError."""
        prepare_directory(self.directory)

    def open(self, image_id: ImageId, count: int) -> BlockTable:
        """The table of an image, empty where there is none to be believed. Blocks on the disk for a new one.

        Raises:
            ValueError: not an image id.
        """
        table = self.opened(image_id, count)
        return table or self.adopt(image_id, count, read_records(self.path(image_id, count), image_id, count))

    def path(self, image_id: ImageId, count: int) -> Path:
        """The file of a table. Raises: ValueError for what is not an image id."""
        return self.directory / file_name(image_id, count)

    def opened(self, image_id: ImageId, count: int) -> BlockTable | None:
        """The table, if it is in memory. Raises: ValueError."""
        return self._tables.get(self.path(image_id, count))

    def adopt(self, image_id: ImageId, count: int, records: bytearray | None) -> BlockTable:
        """The table with what `read_records` found, unless it was opened meanwhile. Raises: ValueError."""
        path = self.path(image_id, count)
        table = self._tables.get(path)
        if table is None:
            table = BlockTable(image_id, count, path, records, self._counters, self._note_dirty)
            self._tables[path] = table
        return table

    def take_dirty(self) -> list[TableJob]:
        """What is to be written, of all tables."""
        jobs = [job for table in self._unwritten.values() if (job := table.take_dirty())]
        self._unwritten.clear()
        return jobs

    def flush(self) -> None:
        """Write all dirty records. Blocking.

        Raises:
            OSError: a table could not be written; its records stay dirty.
        """
        error: OSError | None = None
        for job in self.take_dirty():
            try:
                intact = job.write()
            except OSError as failure:
                error = failure
                job.table.give_back(job, all_records=False)
            else:
                if not intact:
                    job.table.give_back(job, all_records=True)
        if error is not None:
            raise error

    def close(self) -> None:
        """Write all dirty records as far as the disk takes them. Blocking, never raises."""
        try:
            self.flush()
        except OSError:
            pass  # refetched some day

    def open_paths(self) -> set[Path]:
        """The files of the tables in memory."""
        return set(self._tables)

    def delete_unused(self, kept: Container[Path]) -> int:
        """Delete the files of tables not opened for `UNUSED_S`; returns how many. Blocking, never raises.

        Args:
            kept: those in memory, which count as opened.
        """
        limit = time.time() - UNUSED_S
        deleted = 0
        try:
            for entry in os.scandir(self.directory):
                if (
                    entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_mtime < limit
                    and Path(entry.path) not in kept
                ):
                    os.unlink(entry.path)
                    deleted += 1
        except OSError:
            pass  # a sick disk keeps its old tables
        return deleted

    def _note_dirty(self, table: BlockTable) -> None:
        self._unwritten[table.path] = table
