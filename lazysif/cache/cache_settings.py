"""Bounds and times of a block cache, as the daemon's configuration gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What a block cache needs to know.

    Args:
        directory: of the cache, for this daemon alone.
        limit_bytes: the most that frames and their database may occupy.
        min_free_bytes: free space of the file system that must remain.
        memory_bytes: bound of the memory tier.
        queue_bytes: bound of the blocks that wait to be written; they are in memory beside the memory tier.
        batch_bytes: the most that is written in one transaction.
        tick_s: how often uses and tables are written, and the free space looked at.
        gather_s: how long blocks gather before they are written, while they fill less than 3/4 of `queue_bytes`.
        read_timeout_s: a `load` that takes longer goes on without the disk.
        write_timeout_s: a batch that takes longer counts as trouble of the disk.
        touch_after_s: see `FrameStore`.
        first_pause_s, longest_pause_s: see `DiskHealth`.
    """

    directory: Path
    limit_bytes: int
    min_free_bytes: int = 0
    memory_bytes: int = 48 * 2**20
    queue_bytes: int = 32 * 2**20
    batch_bytes: int = 16 * 2**20
    tick_s: float = 2.0
    gather_s: float = 1.0
    read_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    touch_after_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
