"""Whether the disk of the cache may be asked, and what happens when it fails: on either side, reading or writing.

On the trio thread only, without a checkpoint.
"""

from __future__ import annotations

import logging

import trio

from lazysif.cache.backlog import Backlog
from lazysif.cache.cache_settings import CacheSettings
from lazysif.core.disk_health import DiskHealth, Trouble
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)


class DiskAccess:
    """Owns the disk's health, and whether the service of the cache has begun and is to end (`BlockCache` says so).

    Args:
        settings: names of the directory, and its pauses.
        backlog: what waits in it is let go of when the disk fails.
        counters: `cache_read_errors`, `cache_write_errors` and, of what is let go of, `cache_dropped_writes`.
    """

    def __init__(self, settings: CacheSettings, backlog: Backlog, counters: Counters) -> None:
        self.health = DiskHealth(
            first_pause_s=settings.first_pause_s, longest_pause_s=settings.longest_pause_s
        )
        """Of trouble it is told by the methods here only."""
        self.started = False
        self.closing = False
        self._directory = settings.directory
        self._backlog = backlog
        self._counters = counters

    @property
    def readable(self) -> bool:
        """Whether the disk is asked for frames."""
        return self.started and not self.closing and self.health.may_read

    @property
    def writable(self) -> bool:
        """Whether the disk takes writes, and the service runs."""
        return self.started and not self.closing and self.health.may_write

    def read_failed(self, trouble: Trouble) -> None:
        """Note trouble of a read."""
        self._counters.cache_read_errors += 1
        self.failed(trouble)

    def write_failed(self, trouble: Trouble) -> None:
        """Note trouble of a call in the writer thread."""
        self._counters.cache_write_errors += 1
        self.failed(trouble)

    def failed(self, trouble: Trouble) -> None:
        """Note trouble, without counting it: what waits to be written is dropped, and nobody waits for room."""
        before = self.health.state
        self.health.failed(trouble, trio.current_time())
        if self.health.state is not before:
            log.warning(
                "cache directory %s: %s → %s (%s)", self._directory, before, self.health.state, trouble
            )
        self._counters.cache_dropped_writes += self._backlog.give_up()
