"""A check of the cache by the daemon that uses it: `lazysif.cache.fsck` at low priority, beside the readers.

Looking runs in a thread of its own, a few milliseconds at a time, and rests four times as long after each piece;
while somebody waits for the disk it rests on. Repairs go through the cache's writer like everything that writes.
The thread is not given a low priority of the kernel: it would hold the GIL while it waits for a processor, and the
readers with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.fsck import Survey
from lazysif.cache.fsck_repair import DiscardTable, Repair, StrikeRecords, repair
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.lane import ThreadLane
from lazysif.cache.trouble import StoreTrouble
from lazysif.errors import LocalDirectoryError
from lazysif.model import Digest
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

REST = 4.0
"""Rest after a piece, as a multiple of what it took: a fifth of a processor and of the disk's time at most."""
_LONGEST_WAIT_S = 0.2
"""Where somebody always waits for the disk, a piece is done this often: 10 MiB/s."""
_LOOK_S = 0.005


class OnlineFsck:
    """At most one check at a time.

    Args:
        cache: is checked; its service must be running.
        nursery: the check runs in; it may be cancelled at any time.
        counters: damaged frames are counted as if a reader had met them.
    """

    def __init__(self, cache: BlockCache, nursery: trio.Nursery, counters: Counters) -> None:
        self._cache = cache
        self._nursery = nursery
        self._counters = counters
        self._token = trio.lowlevel.current_trio_token()
        self._guard = threading.Lock()
        self._report: Report | None = None

    def begin(self, *, dry_run: bool) -> dict[str, Any]:
        """Start a check, and return its document; from any thread but trio's or from that.

        Raises:
            LocalDirectoryError: one is under way, or the disk is sick.
        """
        with self._guard:
            if self._report is not None and self._report.running:
                raise LocalDirectoryError("a check is under way already")
            if not self._cache.healthy:
                state = self._cache.status()
                raise LocalDirectoryError(f"the cache is {state.state} ({state.trouble or 'starting'})")
            report = Report(str(self._cache.settings.directory), dry_run=dry_run, online=True)
            self._report = report
        self._token.run_sync_soon(self._start, report)
        return report.document()

    def _start(self, report: Report) -> None:
        try:
            self._nursery.start_soon(self.run, report)
        except RuntimeError:  # the nursery is closed already
            report.stopped, report.running = "the daemon ends", False

    def document(self) -> dict[str, Any]:
        """Of the check under way or the last one; with neither it says that none runs."""
        return self._report.document() if self._report is not None else {"running": False}

    async def run(self, report: Report) -> None:
        """Do a check. Never raises."""
        began = time.monotonic()
        lane = ThreadLane("cache-fsck", 1, lambda: None)
        lane.start()
        survey = Survey(self._cache.settings.directory, report, self._cache.waits)
        log.info("checking cache directory %s", report.directory)
        try:
            await self._work(lane, survey.steps(), report, began)
        except StoreTrouble as error:
            report.stopped = str(error)
        except trio.Cancelled:
            report.stopped = "the daemon ends"
            raise
        except Exception:
            log.exception("checking the cache failed in an unforeseen way")
            self._counters.unexpected_errors += 1
            report.stopped = "unexpected error; the daemon's log has it"
        finally:
            lane.close()
            report.running = False
            report.seconds = round(time.monotonic() - began, 3)
            self._tell(report)

    async def _work(
        self, lane: ThreadLane, steps: Iterator[list[Repair]], report: Report, began: float
    ) -> None:
        while self._cache.healthy:
            step_began = time.monotonic()
            damaged = report.found[Kind.FRAMES]
            repairs = await lane.run(partial(next, steps, None))
            if repairs is None:
                return
            took_s = time.monotonic() - step_began
            if not report.dry_run:
                self._counters.frames_quarantined += report.found[Kind.FRAMES] - damaged
                for what in repairs:
                    await self._repair(what)
            report.seconds = round(time.monotonic() - began, 3)
            await self._rest(took_s * REST)
        report.stopped = f"the cache is {self._cache.status().state}"

    async def _rest(self, seconds: float) -> None:
        await trio.sleep(seconds)
        with trio.move_on_after(_LONGEST_WAIT_S):
            while self._cache.busy:  # noqa: ASYNC110 - no event: the reader's way is not made longer for this
                await trio.sleep(_LOOK_S)

    async def _repair(self, what: Repair) -> None:
        """Tables that are in memory are mended there, and written from there."""
        if isinstance(what, StrikeRecords | DiscardTable):
            table = self._cache.tables.opened(what.image_id, what.count)
            if table is not None and isinstance(what, DiscardTable):
                table.rewrite()
                return
            if table is not None and isinstance(what, StrikeRecords):
                for index, record in what.records:
                    digest = table.get(index)
                    if digest is not None and record.startswith(digest) and not self._cache.waits(digest):
                        table.forget(index)
                    elif digest is not None:
                        table.set_again(index)
                return
            if isinstance(what, StrikeRecords):
                left = [(i, r) for i, r in what.records if not self._cache.waits(Digest(r[:32]))]
                what = StrikeRecords(what.path, what.image_id, what.count, left)
        await self._cache.repair(partial(repair, what=what))

    def _tell(self, report: Report) -> None:
        found = ", ".join(f"{count} {kind}" for kind, count in report.found.items() if count)
        level = logging.INFO if report.clean and not report.stopped else logging.WARNING
        log.log(
            level,
            "checked cache directory %s: %d frames, %d bytes, %d tables in %.1f s: %s%s%s",
            report.directory,
            report.frames,
            report.frame_bytes,
            report.tables,
            report.seconds,
            found or "all is well",
            " (dry run)" if report.dry_run else "",
            f"; stopped: {report.stopped}" if report.stopped else "",
        )
