"""What is left for the writer of the cache to do, and who waits until it is done.

Readers and the network add to it, the one task of `disk_writer` takes from it; both on the trio thread, without a
checkpoint but where a method is async. Nothing here asks whether the disk is well: see `disk_access`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from lazysif.cache.frame_reads import ReadResult
from lazysif.cache.store import FrameStore
from lazysif.cache.write_behind import QueuedBlock, WriteQueue
from lazysif.model import Buffer, Digest

StoreCall = Callable[[FrameStore], None]


@dataclass(frozen=True, slots=True)
class Work:
    """What one round of the writer thread is to do.

    Args:
        batch: blocks to be written.
        doomed: frames to be deleted.
        uses: digest → pinned, least recent first.
        suspect: a frame for which the database proved damaged (`FrameStore.ask_again`), or None.
    """

    batch: list[QueuedBlock]
    doomed: set[Digest]
    uses: dict[Digest, bool]
    suspect: Digest | None

    @property
    def empty(self) -> bool:
        return not (self.batch or self.doomed or self.uses or self.suspect)


class Backlog:
    """Owns what waits for the writer: blocks, uses, deletions, repairs, and the events of who waits.

    Args:
        queue: of the blocks; others may look into it, and change it here only.
        gather_s: how long blocks gather before they are due, unless they are hurried.
    """

    def __init__(self, queue: WriteQueue, gather_s: float) -> None:
        self.doomed: set[Digest] = set()
        """Frames that are to be deleted, and must not be read until they are."""
        self._queue = queue
        self._gather_s = gather_s
        self._uses: dict[Digest, bool] = {}
        self._suspect: Digest | None = None
        self._repairs: deque[tuple[StoreCall, trio.Event]] = deque()
        self._flushes: list[trio.Event] = []
        self._wake = trio.Event()
        self._room = trio.Event()
        self._hurried = False
        """Blocks that gather are to be written now."""
        self._due_at = math.inf

    # --- what others leave -------------------------------------------------------------------------

    def put(self, digest: Digest, data: Buffer, pinned: bool, *, unread: bool) -> bool:
        """Queue a block; False where there is no room."""
        first = not self._queue.waiting
        if not self._queue.put(digest, data, pinned):
            return False
        if self._queue.used_bytes > self._queue.limit_bytes // 4 * (1 if unread else 3):
            self._hurry()  # unread ones do not gather: no start goes on beside them
        elif first:
            self._wake.set()
        return True

    def pin(self, digests: Iterable[Digest]) -> None:
        """Pin blocks that wait; of those that are written already it is noted as a use."""
        for digest in digests:
            if not self._queue.pin(digest):
                self._uses[digest] = True

    def note_read(self, result: ReadResult) -> None:
        """Keep what reading turned up: uses, frames to delete, a database to be asked again."""
        self._uses.update(result.aged)
        self.doomed.update(result.damaged, result.unreadable)
        self._suspect = result.suspect or self._suspect
        if result.damaged or result.unreadable or result.suspect:
            self._wake.set()

    def waits(self, digest: Digest) -> bool:
        """Whether a block is about to be written; may be called from any thread."""
        return self._queue.get(digest) is not None

    async def repair(self, call: StoreCall) -> None:
        """Leave a call to the writer thread and wait until it is done, or let go of."""
        done = trio.Event()
        self._repairs.append((call, done))
        self._wake.set()
        await done.wait()

    async def flush(self) -> None:
        """Wait for a round of the writer that begins from now on and writes the tables, too."""
        done = trio.Event()
        self._flushes.append(done)
        self._wake.set()
        await done.wait()

    async def wait_change(self) -> None:
        """Have what gathers written now, and wait until the queue has become shorter or the disk sick."""
        self._hurry()
        await self._room.wait()

    def wake(self) -> None:
        """Have the writer look again."""
        self._wake.set()

    def _hurry(self) -> None:
        self._hurried = True
        self._wake.set()

    # --- what the writer takes ---------------------------------------------------------------------

    @property
    def has_blocks(self) -> bool:
        """True where some block is not yet being written."""
        return self._queue.waiting

    def take(self, batch_bytes: int, *, with_uses: bool) -> Work:
        """What is to be done next; the blocks stay in the queue, and the frames doomed, until `done`."""
        batch = self._queue.take(batch_bytes)
        suspect, self._suspect = self._suspect, None
        uses: dict[Digest, bool] = {}
        if with_uses:
            uses, self._uses = self._uses, {}
        return Work(batch, set(self.doomed), uses, suspect)

    def done(self, work: Work, *, succeeded: bool) -> None:
        """Let go of what was taken: blocks and uses in any case, the frames and the suspicion where it succeeded."""
        self._queue.done(work.batch)
        self._set_room()
        if succeeded:
            # Only now: a damaged frame must not be read once more while it is being deleted.
            self.doomed -= work.doomed
        else:
            self._suspect = self._suspect or work.suspect

    def write_due_at(self, now: float, *, may_write: bool) -> float:
        """When what waits is to be written: `gather_s` after the first of it came; inf where nothing may be.

        Blocks that were hurried until now are due now.
        """
        if not self._queue.waiting or not may_write:
            self._due_at = math.inf
        elif self._hurried:
            self._due_at = now
        elif self._due_at == math.inf:
            self._due_at = now + self._gather_s
        self._hurried = False
        return self._due_at

    def take_repair(self) -> tuple[StoreCall, trio.Event] | None:
        """The next call to be made, and the event to be set after it."""
        return self._repairs.popleft() if self._repairs else None

    def take_flushes(self) -> list[trio.Event]:
        """The events to be set after the next round."""
        flushes, self._flushes = self._flushes, []
        return flushes

    async def wait_work(self, until: float) -> None:
        """Wait until there is something to look at, or the trio clock says `until`."""
        with trio.move_on_at(until):
            await self._wake.wait()
        self._wake = trio.Event()

    # --- when nothing is written ----------------------------------------------------------------------

    def give_up(self) -> int:
        """Let go of the blocks that are not being written, and of who waits for room; returns how many blocks."""
        dropped = self._queue.drop_waiting()
        self._set_room()
        self._wake.set()
        return dropped

    def end(self) -> None:
        """Let go of who waits for room or a flush: there is no writer any more."""
        self._set_room()
        for flushed in self.take_flushes():
            flushed.set()

    def _set_room(self) -> None:
        """Let everybody who waits for room look again."""
        self._room.set()
        self._room = trio.Event()
