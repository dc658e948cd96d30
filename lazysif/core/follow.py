"""Following a trace: which blocks to ask for ahead of a start, given what it touched so far. Pure, no clock.

A path that the start keeps to (`core.cursors`) is *followed*: what stands ahead of its cursor is asked for, in the
order of the trace, at most as many bytes ahead as the start has touched along the path (so that a short job wastes no
more than it used), but no less than the network needs to stay busy. A start that leaves a path stops it by not
touching it. Where a start may be on several paths, what they share it needs whichever it is on, so that as much as
16 MiB of that is asked for at once; what they do not share is asked for with reserve: 2 MiB, and as much again as
proved right. A path that is short altogether is not worth waiting for proof.

Laws (tests/property/test_follow_laws.py): a block is asked for at most once, only if it is missing and stands in
a path, and bytes asked for in vain never exceed the budget.

Why batches of 16 to 48 blocks: sorted and joined they make few requests, and more at a time puts what is needed
next behind what is not. `/bin/true` 10 ms away: 0.21 s in batches of 48, 0.34 s when 256 are sorted at a time.

Delay and bandwidth need not be measured: the window starts at 2 MiB, which is 16 ms at 1 Gbit/s, grows to 6 where
prefetch comes late, and follows what the start touched from then on. Replaying a start of a 3.5 GB image (1,429
blocks, 4.9 s of computing) over a model of the network, it ended this much after a follower that asks for all at
once: 0.00 s at 10 ms and 1 Gbit/s, 0.05 s at 50 ms and 1 Gbit/s, 0.13 s at 50 ms and 200 Mbit/s, 1.4 s at 100 ms and
1 Gbit/s. Beginning with 4 MiB saved 0.01 to 0.12 s of that. Three jobs of that image, each with a path of its own,
fetched 1.0 (heavy import), 1.2 (numpy) and 2 times (`/bin/true`, 2 MB more) what they touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lazysif.core.ahead import GivenAhead
from lazysif.core.cursors import Cursor, CursorLimits, CursorPath


@dataclass(frozen=True, slots=True)
class FollowLimits:
    """Sizes in bytes, counts in blocks.

    Args:
        floor_bytes, most_floor_bytes: asked for ahead of a start that only began; grows from the first to the second
            where prefetch comes late. 2 MiB left a line of 50 ms and 200 Mbit/s idle while Apptainer made ready, and
            a heavy import took 10.0 instead of 9.6 s. `/bin/true` fetches 9.6 MB where only that job is known.
        lead_bytes: the most ahead of a start, however long it has kept to its path: half of the memory tier, so that
            it is read before it goes. With 48 MiB a heavy import 10 ms away took a tenth longer; 50 ms and 200 Mbit/s
            away both took the same.
        sure_bytes: the most ahead of a start that only began, of what all paths share that it may be on.
        doubt_bytes: asked for, once, of what it needs on half of these paths, and not on all. Apptainer takes 100 ms
            before the job begins, in which the line has nothing else to do: with 2 MiB `python3 -c pass` waited 25 ms
            for what came after that, where a longer job's and `/bin/true` were known.
        rare_bytes: the most asked for at a time of what it needs on some of them; more once as much has proved to be
            needed.
        whole_bytes: a path of at most so much is asked for whole.
        load_bytes: the same where the cache has it: more would push itself out of memory again.
        budget_bytes: the most asked for and not touched, all paths of all starts of a phase together.
        batch, least_batch: blocks sorted and joined at a time.
        cursors: see `core.cursors`.
    """

    floor_bytes: int = 4 << 20
    most_floor_bytes: int = 8 << 20
    lead_bytes: int = 24 << 20
    sure_bytes: int = 16 << 20
    doubt_bytes: int = 6 << 20
    rare_bytes: int = 2 << 20
    whole_bytes: int = 8 << 20
    load_bytes: int = 16 << 20
    budget_bytes: int = 64 << 20
    batch: int = 48
    least_batch: int = 16
    cursors: CursorLimits = field(default_factory=CursorLimits)


@dataclass(slots=True)
class Ask:
    """What to bring: `fetch` in batches, each to be sorted and joined; `load` lies in the cache."""

    fetch: list[list[int]] = field(default_factory=list)
    load: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.fetch or self.load)


def _naming(block: int, paths: Sequence[CursorPath]) -> int:
    """How many of the paths name a block."""
    return sum(block in path.place for path in paths)


class Follower:
    """Follows the paths of one image through one phase of starts.

    Args:
        paths: the blocks of each, each block once.
        length: bytes of a block.
    """

    def __init__(
        self,
        paths: Sequence[Sequence[int]],
        length: Callable[[int], int],
        limits: FollowLimits | None = None,
    ) -> None:
        self._limits = limits or FollowLimits()
        self._length = length
        self._paths = [CursorPath(blocks, length, self._limits.cursors) for blocks in paths]
        self._touched: set[int] = set()
        self._asked: dict[int, None] = {}
        """In this order."""
        self._pending: set[int] = set()
        """Asked for to be fetched, and not touched."""
        self.pending_bytes = 0
        self._doubtful: set[int] = set()
        """Asked for, not touched, and not on all paths that a start may be on."""
        self._doubtful_bytes = 0
        self._doubted_bytes = 0
        """Of all that were ever doubtful."""
        self._judged_by: list[CursorPath] = []
        """The paths that a start may have been on when that was judged."""
        self._proved_bytes = 0
        """Doubtful ones that were touched."""
        self._late = 1
        self._ahead = GivenAhead()
        self._perhaps: set[CursorPath] = set()
        """The paths that a start was perhaps on when it was asked last whether it has left one."""

    @property
    def following(self) -> bool:
        """Whether a path is being followed and goes on: own guesses are worse than the trace then."""
        return any(cursor.position + 1 < len(cursor.blocks) for cursor in self._active())

    def _active(self) -> list[Cursor]:
        return [cursor for path in self._paths for cursor in path.active()]

    def names(self, block: int) -> bool:
        """Whether it stands in a path."""
        return any(block in path.place for path in self._paths)

    def unread(self) -> list[int]:
        """The blocks that were asked for and not touched, in the order of asking."""
        return [block for block in self._asked if block not in self._touched]

    def give(self, block: int) -> bool:
        """Whether a block that was asked for may be given to the kernel ahead of a start that is sure to need it.

        Its touch is not seen then; a later one shows it (`core.ahead`).
        """
        if block in self._touched or block not in self._asked:
            return False
        paths = list(dict.fromkeys(cursor.path for cursor in self._active()))
        return self._ahead.give(block, paths, self._touched)

    def left_a_path(self) -> bool:
        """Whether a start has left one of the paths since this was asked last: more may be given then (`give`)."""
        before, self._perhaps = self._perhaps, {cursor.path for cursor in self._active()}
        return not before <= self._perhaps

    def touch(self, block: int, *, late: bool = False) -> list[int]:
        """A start touches a block for the first time; `late`: it has to wait for it.

        Returns the blocks that it touched before, as this one shows.
        """
        if block in self._touched:
            return []
        shown = self._ahead.shown_by(block, self._paths)
        for each in shown:
            self._touch(each)
        self._touch(block, late=late)
        return shown

    def _touch(self, block: int, *, late: bool = False) -> None:
        self._touched.add(block)
        if block in self._pending:
            self._pending.remove(block)
            self.pending_bytes -= self._length(block)
        size = self._length(block)
        if block in self._doubtful:
            self._doubtful.remove(block)
            self._doubtful_bytes -= size
            self._proved_bytes += size
        if late and self.names(block):
            self._late = min(2 * self._late, 4)
        for path in self._paths:
            path.touch(block, self._touched)

    def ask(self, is_missing: Callable[[int], bool]) -> Ask:
        """What to bring now. Called after touches; mostly empty.

        Args:
            is_missing: neither cached nor on its way.
        """
        found: list[int] = []
        answer = Ask()
        active = self._active()
        alternatives = self._alternatives(active)
        turns = [cursor for cursor in active if self._has_room(cursor, alternatives)]
        if not turns:
            return answer
        live_bytes = self._live_bytes(active)
        least = self._least(turns[0])  # a block each time would be a request each time
        room = max(self._lead(cursor, alternatives) for cursor in turns) - live_bytes
        doubts = 2 * self._doubt_room(likely=True) >= least
        if room >= least:
            while turns and room > 0:
                for cursor in list(turns):
                    taken = self._take(cursor, alternatives, is_missing, found, answer.load, doubts=doubts)
                    room -= taken
                    if not taken or room <= 0:
                        turns.remove(cursor)
        batch = self._limits.batch
        answer.fetch = [found[start : start + batch] for start in range(0, len(found), batch)]
        return answer

    def _alternatives(self, active: Sequence[Cursor]) -> list[CursorPath]:
        """The paths that a start may be on."""
        found = list(dict.fromkeys(cursor.path for cursor in active if not cursor.over))
        if found != self._judged_by:
            self._judged_by = found
            self._doubtful = {block for block in self._doubtful if 0 < _naming(block, found) < len(found)}
            self._doubtful_bytes = sum(map(self._length, self._doubtful))
        return found

    def _doubt_room(self, *, likely: bool) -> int:
        """Bytes that may be asked for besides that the start needs on one path and not on another; `likely`: on half
        of them at least."""
        limits = self._limits
        room = max(limits.rare_bytes, self._proved_bytes) - self._doubtful_bytes
        return max(room, limits.doubt_bytes - self._doubted_bytes) if likely else room

    def _kept_lead(self, cursor: Cursor) -> int:
        """Bytes ahead of this cursor that the start's keeping to the path is worth."""
        limits = self._limits
        floor = min(limits.floor_bytes * self._late, limits.most_floor_bytes, 2 * cursor.kept_bytes)
        return min(max(limits.floor_bytes, floor, cursor.kept_bytes), self._most(cursor))

    def _lead(self, cursor: Cursor, alternatives: Sequence[CursorPath]) -> int:
        """Bytes ahead of this cursor that are worth asking for: more where several paths are, which bound what is
        doubtful in another way, and where little is at stake."""
        limits, lead = self._limits, self._kept_lead(cursor)
        if len(alternatives) < 2 and cursor.path.size_bytes > limits.whole_bytes:
            return lead
        return max(lead, min(limits.sure_bytes, self._most(cursor)))

    def _most(self, cursor: Cursor) -> int:
        return self._limits.load_bytes if cursor.loading else self._limits.lead_bytes

    def _least(self, cursor: Cursor) -> int:
        """Bytes that are worth asking for: one block each time would be one request each time."""
        block = cursor.blocks[min(cursor.scanned, len(cursor.blocks) - 1)]
        return min(self._limits.least_batch * self._length(block), self._kept_lead(cursor) // 2)

    def _has_room(self, cursor: Cursor, alternatives: Sequence[CursorPath]) -> bool:
        if cursor.scanned >= len(cursor.blocks):
            return False
        return self._lead(cursor, alternatives) - cursor.ahead_bytes >= self._least(cursor)

    def _live_bytes(self, active: Sequence[Cursor]) -> int:
        """Bytes asked for and still ahead of a start: paths that are followed at once share one lead."""
        ahead = {block for cursor in active for block in cursor.blocks[cursor.position + 1 : cursor.scanned]}
        return sum(self._length(block) for block in ahead - self._touched)

    def _take(
        self,
        cursor: Cursor,
        alternatives: Sequence[CursorPath],
        is_missing: Callable[[int], bool],
        found: list[int],
        load: list[int],
        *,
        doubts: bool,
    ) -> int:
        """Ask for the next block of this path that nobody asked for; its bytes, or 0 at the end of its share.

        Args:
            doubts: whether anything doubtful is asked for this time.
        """
        while cursor.scanned < len(cursor.blocks):
            block = cursor.blocks[cursor.scanned]
            size = self._length(block)
            if block in self._touched:
                cursor.scanned += 1
                continue
            new = block not in self._asked
            missing = new and is_missing(block)
            cursor.loading = new and not missing
            if cursor.ahead_bytes + size > self._lead(cursor, alternatives):
                return 0
            naming = _naming(block, alternatives)
            doubtful = missing and naming < len(alternatives)
            if missing and self.pending_bytes + size > self._limits.budget_bytes:
                return 0
            likely = 2 * naming >= len(alternatives)
            if doubtful and (not doubts or size > self._doubt_room(likely=likely)):
                return 0
            cursor.scanned += 1
            cursor.ahead_bytes += size
            if not new:
                continue
            self._asked[block] = None
            if missing:
                self._pending.add(block)
                self.pending_bytes += size
            if doubtful:
                self._doubtful.add(block)
                self._doubtful_bytes += size
                self._doubted_bytes += size
            (found if missing else load).append(block)
            return size
        return 0
