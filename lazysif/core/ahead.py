"""Which blocks of a trace the kernel may be given before a job reads them. Pure.

What lies in the kernel's page cache is read without us: faster (a read that comes to us costs 0.1 to 0.3 ms), and
unseen. So that a follower still knows where a start is, each `WATCHED`th place of a path stays with us, and a touch
there shows that the blocks given since the place before it were read, too. What no place shows is not given.

`WATCHED` = 4, of a heavy import with all blocks cached: 3,920 reads became 1,250.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

WATCHED = 4


class Path(Protocol):
    """The blocks of a path in their order, and the place of each."""

    @property
    def blocks(self) -> Sequence[int]: ...

    @property
    def place(self) -> Mapping[int, int]: ...


class GivenAhead:
    """The blocks that were given, and not shown to be read yet."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def give(self, block: int, paths: Sequence[Path]) -> bool:
        """Whether a block may be given, once.

        Args:
            paths: all that a start may be on; one at least must hold the block, and none watch it.
        """
        if block in self._given or not paths:
            return False
        for path in paths:
            place = path.place.get(block)
            if place is None or place % WATCHED == 0 or place > (len(path.blocks) - 1) // WATCHED * WATCHED:
                return False
        self._given.add(block)
        return True

    def shown_by(self, block: int, paths: Sequence[Path]) -> list[int]:
        """The given blocks that were read, as a touch of this one shows; each once, in the order of the path."""
        self._given.discard(block)
        if not self._given:
            return []
        shown: list[int] = []
        for path in paths:
            place = path.place.get(block, 1)
            if place % WATCHED == 0:
                since = path.blocks[max(place - WATCHED + 1, 0) : place]
                shown.extend(each for each in since if each in self._given)
                self._given.difference_update(shown)
        return shown
