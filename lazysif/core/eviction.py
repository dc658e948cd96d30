"""How many bytes of the block store have to go before some more may come in. Pure.

Two bounds: the byte limit of the store, and a floor of free space of the file system, which others fill too.
Which frames go is the store's business (least recently used first); here is only how much.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_BYTES = 256 * 2**20
"""The most that is freed beyond need at one time: about 2,000 frames, 0.1 s of deleting; more would hold
up writes."""


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """What to do before a write.

    Args:
        free_bytes: bytes of frames to evict, 0 for none.
        write: False where the write is to be skipped.
        disk_full: True where that is for want of free space, whatever the limit allows.
    """

    free_bytes: int
    write: bool
    disk_full: bool = False


def low_mark(limit_bytes: int) -> int:
    """Where evicting stops once the limit was passed: 95 % of it, so that not every batch has to evict."""
    return limit_bytes - limit_bytes // 20


def plan_eviction(
    *,
    frame_bytes: int,
    database_bytes: int,
    limit_bytes: int,
    disk_free_bytes: int,
    floor_bytes: int,
    incoming_bytes: int,
    step_bytes: int = STEP_BYTES,
) -> EvictionPlan:
    """Say how much to evict so that `incoming_bytes` fit under the limit and above the floor.

    Nothing is evicted in vain: where even an empty store would not make room, the write is skipped and the
    frames stay. With `incoming_bytes=0` it says what must go because the limit or the free space shrank.

    Args:
        frame_bytes: what the store holds now, and could do without.
        database_bytes: what its database occupies, which evicting does not shrink.
        limit_bytes: the most that both may occupy.
        disk_free_bytes: free space of its file system.
        floor_bytes: free space that must remain.
        incoming_bytes: what is about to be written.
        step_bytes: the most to free beyond what is needed.
    """
    over_limit = frame_bytes + database_bytes + incoming_bytes - limit_bytes
    under_floor = floor_bytes + incoming_bytes - disk_free_bytes
    needed = max(over_limit, under_floor, 0)
    if not needed:
        return EvictionPlan(0, write=True)
    if needed > frame_bytes:
        # A limit that was lowered below what is held is obeyed even when the write itself can never fit.
        excess = min(frame_bytes + database_bytes - limit_bytes, frame_bytes)
        return EvictionPlan(max(excess, 0), write=False, disk_full=under_floor > frame_bytes)
    slack = limit_bytes - low_mark(limit_bytes)
    return EvictionPlan(min(needed + min(slack, step_bytes), frame_bytes), write=True)
