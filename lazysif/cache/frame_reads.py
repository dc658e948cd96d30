"""Frames read and checked, from any thread. Never raises: damage is not an error but a miss that is reported."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lazysif.cache.frame import DamagedFrame, decode
from lazysif.cache.frame_database import REFUSALS, DiskCache, close_connection, trouble_of
from lazysif.cache.frame_disk import UnreadableFrame
from lazysif.cache.rows import present
from lazysif.cache.use_clock import is_pinned, lifetime_s
from lazysif.core.disk_health import Trouble
from lazysif.model import Buffer, Digest

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReadResult:
    """What `read_frames` found.

    Args:
        found: checked contents.
        damaged: frames that failed their check, and how.
        unreadable: frames whose file the disk would not read.
        aged: found frames whose last use is to be noted, and whether they are pinned.
        trouble: why reading stopped early, if it did.
        suspect: a frame for which the database proved damaged, to be handed to `FrameStore.ask_again`.
    """

    found: dict[Digest, Buffer] = field(default_factory=dict)
    damaged: dict[Digest, str] = field(default_factory=dict)
    unreadable: list[Digest] = field(default_factory=list)
    aged: dict[Digest, bool] = field(default_factory=dict)
    trouble: Trouble | None = None
    suspect: Digest | None = None


def read_frames(cache: DiskCache | None, digests: Sequence[Digest], touch_after_s: float) -> ReadResult:
    """Read and check frames; what is not in the result is not there.

    Args:
        cache: the database for this thread; with None nothing is found.
        touch_after_s: from the last noted use to the one that is to be noted again.
    """
    result = ReadResult()
    if cache is None:
        return result
    for digest in digests:
        try:
            read_frame(cache, digest, touch_after_s, result)
        except REFUSALS as error:
            close_connection(cache)
            trouble = trouble_of(error)
            result.suspect = digest if trouble is None else None
            result.trouble = trouble
            break
    return result


def absent(cache: DiskCache | None, digests: Sequence[Digest]) -> list[Digest]:
    """Those that have no row; where the database cannot be asked, none is said to be absent."""
    if cache is None:
        return []
    try:
        there = present(cache._sql, digests, time.time())
    except REFUSALS as error:
        close_connection(cache)
        log.debug("the database does not say what it has: %s", error)
        return []
    return [digest for digest in digests if digest not in there]


def read_frame(cache: DiskCache, digest: Digest, touch_after_s: float, result: ReadResult) -> None:
    """Read and check one frame. Raises: one of `REFUSALS`: the database does not answer."""
    try:
        frame, expires = cache.get(digest, expire_time=True)
        if frame is None:
            return
        result.found[digest] = decode(frame, digest)
    except DamagedFrame as error:
        # Between the row and its file an eviction may have come: then it is a plain miss.
        if digest in cache:
            result.damaged[digest] = str(error)
        return
    except UnreadableFrame as error:
        result.unreadable.append(digest)
        result.trouble = trouble_of(error.error)
        return
    remaining_s = (expires if type(expires) is float else 0.0) - time.time()
    pinned = is_pinned(remaining_s)
    if remaining_s < lifetime_s(pinned) - touch_after_s:
        result.aged[digest] = pinned
