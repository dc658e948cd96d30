"""What waits to be written, and how a batch of it is written.

`WriteQueue` belongs to the trio thread; `write_batch` and `write_tables` run in the writer thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from lazysif.cache.block_table import TableJob
from lazysif.cache.block_tables import BlockTables
from lazysif.cache.frame import HEADER_BYTES, pieces, worth_packing
from lazysif.cache.store import EVICTED_AT_ONCE, FrameStore
from lazysif.core.eviction import EvictionPlan, plan_eviction
from lazysif.model import Buffer, Digest

_ROW_BYTES = 512
"""What a frame costs in the database and its indices, rounded up generously (measured: 230)."""
_DATABASE_SHARE = 16
"""A database that occupies more than this part of the limit is asked whether it needs it: one that was once larger
never shrinks by itself. Frames of 8 KiB, small for blocks of 128 KiB, stay below."""
_PAGE = 4096
_SAMPLED_TOGETHER = 8


@dataclass(slots=True)
class QueuedBlock:
    """A block on its way to the disk."""

    digest: Digest
    data: Buffer
    pinned: bool


class WriteQueue:
    """Blocks in the order they came, bounded in bytes; one that is being written still counts.

    Args:
        limit_bytes: the most that they may take together; an empty queue takes any one block.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._blocks: dict[Digest, QueuedBlock] = {}
        self._taken: set[Digest] = set()

    def __repr__(self) -> str:
        return f"<WriteQueue {len(self._blocks)} blocks, {self.used_bytes} of {self.limit_bytes} bytes>"

    @property
    def waiting(self) -> bool:
        """True where some block is not yet being written."""
        return len(self._blocks) > len(self._taken)

    def get(self, digest: Digest) -> Buffer | None:
        block = self._blocks.get(digest)
        return block.data if block is not None else None

    def newest(self) -> Digest | None:
        """The block that came last of those that are here."""
        return next(reversed(self._blocks), None)

    def fits(self, size_bytes: int) -> bool:
        return not self._blocks or self.used_bytes + size_bytes <= self.limit_bytes

    def put(self, digest: Digest, data: Buffer, pinned: bool) -> bool:
        """Queue a block; False where there is no room."""
        if digest in self._blocks:
            return not pinned or self.pin(digest) or digest in self._taken
        if not self.fits(len(data)):
            return False
        self._blocks[digest] = QueuedBlock(digest, data, pinned)
        self.used_bytes += len(data)
        return True

    def pin(self, digest: Digest) -> bool:
        """Pin a block that waits; False where it does not, or is being written already."""
        block = self._blocks.get(digest)
        if block is None or digest in self._taken:
            return False
        block.pinned = True
        return True

    def take(self, batch_bytes: int) -> list[QueuedBlock]:
        """The next blocks, at least one and otherwise up to `batch_bytes`; they stay until `done`."""
        batch: list[QueuedBlock] = []
        total = 0
        for digest, block in self._blocks.items():
            if digest in self._taken:
                continue
            total += len(block.data)
            if batch and total > batch_bytes:
                break
            batch.append(block)
        self._taken.update(block.digest for block in batch)
        return batch

    def done(self, batch: Iterable[QueuedBlock]) -> None:
        """Let go of blocks that were taken."""
        for block in batch:
            del self._blocks[block.digest]
            self._taken.discard(block.digest)
            self.used_bytes -= len(block.data)

    def drop_waiting(self) -> int:
        """Let go of all blocks that were not taken; returns how many."""
        dropped = [block for digest, block in self._blocks.items() if digest not in self._taken]
        self.done(dropped)
        return len(dropped)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What came of a batch.

    Args:
        evicted: frames that went.
        skipped: blocks that were not written for want of space.
        free_bytes: free space of the file system afterwards.
        disk_full: blocks are passed over because the file system has too little, not because the cache is small.
    """

    evicted: int
    skipped: int
    free_bytes: int
    disk_full: bool


def write_batch(
    store: FrameStore,
    batch: Sequence[QueuedBlock],
    doomed: Iterable[Digest],
    uses: dict[Digest, bool],
    *,
    limit_bytes: int,
    floor_bytes: int,
) -> BatchReport:
    """Delete what is damaged, make room, write, note uses: in that order, in the writer thread.

    Args:
        doomed: frames to delete.
        uses: digest → pinned, least recent first.
        limit_bytes: see `plan_eviction`.
        floor_bytes: see `plan_eviction`.

    Raises:
        StoreTrouble: the disk refused; what was asked is done in part or not at all.
    """
    if doomed:
        store.delete_many(doomed)
    if uses:
        store.touch_many(uses.items())
    frames = []
    for start in range(0, len(batch), _SAMPLED_TOGETHER):
        group = batch[start : start + _SAMPLED_TOGETHER]
        packed = worth_packing(block.data for block in group)
        frames += [(b.digest, partial(pieces, b.digest, b.data, packed=packed), b.pinned) for b in group]
    incoming_bytes = sum(_stored_bytes(HEADER_BYTES + len(block.data)) for block in batch)
    if store.database_bytes > limit_bytes // _DATABASE_SHARE:
        store.shrink()
    plan = plan_room(store, incoming_bytes, limit_bytes=limit_bytes, floor_bytes=floor_bytes)
    evicted = store.evict(plan.free_bytes)
    fits = plan.write and evicted < EVICTED_AT_ONCE
    if frames and fits:
        store.write_many(frames)
    return BatchReport(evicted, 0 if fits else len(batch), store.free_bytes(), plan.disk_full)


def plan_room(store: FrameStore, incoming_bytes: int, *, limit_bytes: int, floor_bytes: int) -> EvictionPlan:
    """See `plan_eviction`, of the store as it is now. Raises: StoreTrouble: the disk does not say."""
    return plan_eviction(
        frame_bytes=store.frame_bytes,
        database_bytes=store.database_bytes,
        limit_bytes=limit_bytes,
        disk_free_bytes=store.free_bytes(),
        floor_bytes=floor_bytes,
        incoming_bytes=incoming_bytes,
    )


def write_tables(tables: BlockTables, jobs: Iterable[TableJob]) -> list[tuple[TableJob, bool]]:
    """Write records; returns the jobs to be given back, and whether the rest of their file is intact.

    Raises: see `BlockTables.prepare`: somebody may have removed the directory.
    """
    tables.prepare()
    failed: list[tuple[TableJob, bool]] = []
    for job in jobs:
        try:
            if not job.write():
                failed.append((job, False))
        except OSError:
            failed.append((job, True))
    return failed


def _stored_bytes(frame_bytes: int) -> int:
    return -(-frame_bytes // _PAGE) * _PAGE + _ROW_BYTES
