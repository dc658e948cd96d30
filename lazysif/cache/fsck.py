"""Checks all that lies in a cache directory, and repairs by discarding: frames, rows, files, sums, block tables.

Reads never trust what is checked here; the point of a check is to know the disk, and to give back room that nobody
can use.

`Survey` only reads, in short pieces (`steps`), with a connection of its own that is closed after each piece, and
says what is to be done; `fsck_repair.repair` does it, in the store's writer thread. `check_offline` joins them for a
directory that no daemon uses; `fsck_online` for one that a daemon serves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lazysif.cache.frame_database import FRAMES
from lazysif.cache.fsck_database import DamagedDatabase, DatabaseView, check_structure, check_sums
from lazysif.cache.fsck_frames import FrameSurvey, check_orphans
from lazysif.cache.fsck_repair import DiscardDatabase, Repair, repair
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.fsck_tables import TableSurvey
from lazysif.cache.store import FrameStore
from lazysif.cache.table_file import TABLES
from lazysif.cache.trouble import StoreTrouble, check_readable
from lazysif.cache.value_file import remove_slowly
from lazysif.errors import LocalDirectoryError
from lazysif.model import Digest


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
        self._report = report
        self._view = DatabaseView(directory / FRAMES)
        self._tables = TableSurvey(directory, self._view, report, waiting)

    def steps(self) -> Iterator[list[Repair]]:
        """Do a piece of it at each step, and say what is to be done about what it turned up.

        The repairs of a step are to be done before the next one.

        Raises:
            StoreTrouble: the disk is too sick for a check to mean anything.
        """
        try:
            if self._view.exists():
                yield from check_structure(self._view, self._report)
                yield from check_sums(self._view, self._report)
                yield from FrameSurvey(self._view, self._report).steps()
                yield from check_orphans(self._view, self._report)
        except DamagedDatabase as error:
            check_readable(self._view.frames)
            self._report.count(Kind.DATABASES)
            yield [DiscardDatabase(str(error))]
        yield from self._tables.steps()


def check_offline(directory: Path, *, dry_run: bool, tell: Callable[[Report], None]) -> Report:
    """Check a directory and, without `dry_run`, repair it; `tell` hears of the progress.

    Raises:
        LocalDirectoryError: there is none, a daemon uses it, it is not ours, or its disk is too sick.
    """
    if not os.path.isdir(directory):
        raise LocalDirectoryError(
            f"there is no cache directory {directory}", hint="name it with --cache-dir or --config"
        )
    if not _may_be_cache(directory):
        raise LocalDirectoryError(
            f"directory {directory} is not a cache of lazysif", hint="name one with --cache-dir or --config"
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


def _may_be_cache(directory: Path) -> bool:
    """Asked before anything is made there, the lock for one. True where it cannot be listed: the claim says why."""
    try:
        names = os.listdir(directory)
    except OSError:
        return True
    return any(name in (FRAMES, TABLES) or name.startswith(f"{FRAMES}.damaged-") for name in names)
