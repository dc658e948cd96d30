"""Where starts are on the paths of a trace. Pure, no clock.

A block that is touched moves a cursor of each path it stands in. A start may be in several places (it reads ahead and
comes back), and several starts are under way at once; one that leaves a path stops its cursor by not touching it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from lazysif.core.ahead import watch

_END = 16
"""A path is at its end in its last 16th: starts touch their last blocks in any order."""


@dataclass(frozen=True, slots=True)
class CursorLimits:
    """Counts in blocks.

    Args:
        begin: a start's first touches are near the beginning of its path.
        proof: touches in order before a path is followed that a start joins elsewhere.
        doze, stray: touches elsewhere after which nothing more is asked for at a cursor until a start comes back to
            it, and after which it is given up.
        reach: how far behind a cursor, and beyond what was asked for ahead of it, a touch is still in order.
        most: cursors of one path.
    """

    begin: int = 16
    proof: int = 3
    doze: int = 6
    stray: int = 24
    reach: int = 32
    most: int = 4


class Cursor:
    """A place on a path that starts have come to; `need` touches in order prove that they go on from there."""

    def __init__(self, path: CursorPath, position: int, need: int) -> None:
        self.path = path
        self.blocks = path.blocks
        self.position = position
        self.need = need
        self.scanned = position + 1
        """Positions below this one were asked for, or need not be."""
        self.ahead_bytes = 0
        """Of positions between the cursor and `scanned` that are not touched yet."""
        self.in_order = 0
        self.kept_bytes = 0
        self.strayed = 0
        self.loading = False
        """What comes next is cached, so that less is asked for ahead."""

    @property
    def over(self) -> bool:
        """Whether the path is at its end, and the start goes on without it."""
        left = len(self.blocks) - 1 - self.position
        return self.strayed > 0 and left * _END <= len(self.blocks)

    def move(self, position: int, touched: Container[int], length: Callable[[int], int]) -> None:
        """A start has touched this position of the path."""
        size = length(self.blocks[position])
        self.strayed = 0
        self.in_order += 1
        self.kept_bytes += size
        if position <= self.position:
            return
        for passed in self.blocks[self.position + 1 : min(position, self.scanned)]:
            if passed not in touched:
                self.ahead_bytes -= length(passed)
        if position < self.scanned:
            self.ahead_bytes -= size
        else:
            self.scanned, self.ahead_bytes = position + 1, 0
        self.position = position


class CursorPath:
    """One path of a trace, and the cursors on it.

    Args:
        blocks: each once.
        length: bytes of a block.
    """

    def __init__(self, blocks: Sequence[int], length: Callable[[int], int], limits: CursorLimits) -> None:
        self.blocks = blocks
        self.size_bytes = sum(map(length, blocks))
        self.place = {block: position for position, block in enumerate(blocks)}
        self.shown_at = watch(blocks)
        self.cursors: list[Cursor] = []
        self._length = length
        self._limits = limits

    def touch(self, block: int, touched: Container[int]) -> None:
        """A start touches a block, of this path or another; `touched` are all that starts have touched so far."""
        position = self.place.get(block)
        moved = self._cursor_at(position) if position is not None else None
        for cursor in self.cursors:
            cursor.strayed += cursor is not moved
        self.cursors = [cursor for cursor in self.cursors if cursor.strayed < self._limits.stray]
        if moved is not None:
            moved.move(self.place[block], touched, self._length)

    def _cursor_at(self, position: int) -> Cursor:
        """The cursor that a touch at this position moves: one that it is near to, or a new one."""
        limits = self._limits
        near = [
            cursor
            for cursor in self.cursors
            if cursor.position - limits.reach <= position <= cursor.scanned + limits.reach
        ]
        if near:
            return min(near, key=lambda cursor: abs(cursor.position - position))
        begins = position < limits.begin and not self.cursors
        cursor = Cursor(self, position, 1 if begins else limits.proof)
        if len(self.cursors) >= limits.most:
            self.cursors.remove(max(self.cursors, key=lambda cursor: cursor.strayed))
        self.cursors.append(cursor)
        return cursor

    def active(self) -> list[Cursor]:
        """Those that are followed: proved, and not left for the moment."""
        limits = self._limits
        return [
            cursor
            for cursor in self.cursors
            if cursor.in_order >= cursor.need and cursor.strayed < limits.doze
        ]
