"""Calls in the thread of the cache that changes what lies on disk; what fails in it is noted, and seldom raised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from lazysif.cache.disk_access import DiskAccess
from lazysif.cache.lane import ThreadLane
from lazysif.cache.store import FrameStore
from lazysif.cache.trouble import StoreTrouble
from lazysif.core.disk_health import Trouble
from lazysif.errors import LocalDirectoryError
from lazysif.telemetry import Counters

T = TypeVar("T")
log = logging.getLogger(__name__)


class WriterThread:
    """Owns the judgement of what calls in the writer thread raise; used by one task.

    Args:
        lane: of the one thread.
        directory: of the cache, for the log.
        store: that the calls are about.
        access: told of trouble.
        counters: `cache_set_aside` and `unexpected_errors`.
    """

    def __init__(
        self, lane: ThreadLane, directory: Path, store: FrameStore, access: DiskAccess, counters: Counters
    ) -> None:
        self._lane = lane
        self._directory = directory
        self._store = store
        self._access = access
        self._counters = counters

    async def run(
        self, call: Callable[[], T], timeout_s: float, refusals: tuple[type[Exception], ...] = ()
    ) -> T | None:
        """Run a call in the thread; None where it failed, which is noted.

        A call that takes longer than `timeout_s` is noted as trouble and then waited for: the thread is busy
        with it anyway, and what is to be written stays bounded by the queue. Before the service has started it is
        not waited for.

        Raises:
            LocalDirectoryError: the service has not started, the call raised it and `refusals` does not name it.
        """
        job = self._lane.submit(call)
        with trio.move_on_after(timeout_s):
            await job.wait()
        if not job.finished:
            self._access.write_failed(Trouble.SILENCE)
            if not self._access.started:
                return None
            await job.wait()
        self._counters.cache_set_aside = self._store.set_aside_count
        try:
            return job.result()
        except StoreTrouble as error:
            log.debug("cache directory %s: %s: %s", self._directory, error.trouble, error)
            self._access.write_failed(error.trouble)
        except refusals as error:
            log.debug("cache directory %s: %s", self._directory, error)
            self._access.write_failed(Trouble.IO)
        except LocalDirectoryError:
            if not self._access.started:
                raise
            log.exception("cache directory %s is not ours any more", self._directory)
            self._access.write_failed(Trouble.IO)
        except Exception:
            log.exception("writing frames failed in an unforeseen way")
            self._counters.unexpected_errors += 1
            self._access.write_failed(Trouble.DATABASE)
        return None
