"""Which blocks of a trace the kernel may be given before a job reads them. Pure.

What lies in the kernel's page cache is read without us: faster (a read that comes to us costs 0.1 to 0.3 ms), and
unseen. So that a follower still knows where a start is, some places of each path are *watched*: their blocks stay
with us, and a touch of one shows that the blocks given since the place before it were read, too. What no watched
place would show is not given.

Every fourth place is watched where jobs part, near the beginning, and fewer further on. A heavy import with all
blocks cached asked us for 3,920 reads, and spent 1.5 s with one under way; with every fourth place watched all along
1,250 and 0.5 s; so 470 and 0.27 s.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Protocol

_EVERY = ((64, 4), (256, 8))
_EVERY_LATER = 16
"""Below which place how many of them have one that is watched; all powers of two."""


class Path(Protocol):
    """The blocks of a path in their order, and the place of each."""

    @property
    def blocks(self) -> Sequence[int]: ...

    @property
    def place(self) -> Mapping[int, int]: ...


def every(place: int) -> int:
    """How far watched places are apart at this place of a path."""
    return next((step for below, step in _EVERY if place < below), _EVERY_LATER)


def is_watched(place: int) -> bool:
    return place % every(place) == 0


def next_watched(place: int) -> int:
    """The watched place that shows what was given before it."""
    return (place // every(place) + 1) * every(place)


class GivenAhead:
    """The blocks that were given, and not shown to be read yet."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def give(self, block: int, paths: Sequence[Path], touched: Container[int]) -> bool:
        """Whether a block may be given, once.

        Args:
            paths: all that a start may be on; each must hold the block, and none watch it.
            touched: blocks whose touch was seen, and shows nothing any more.
        """
        if block in self._given or not paths or not all(_will_show(path, block, touched) for path in paths):
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
            place = path.place.get(block)
            if place is not None and is_watched(place):
                since = path.blocks[max(place - every(place) + 1, 0) : place]
                shown.extend(each for each in since if each in self._given)
                self._given.difference_update(shown)
        return shown


def _will_show(path: Path, block: int, touched: Container[int]) -> bool:
    """Whether a touch that is still to come on this path shows that the block was read."""
    place = path.place.get(block)
    if place is None or is_watched(place):
        return False
    shows = next_watched(place)
    return shows < len(path.blocks) and path.blocks[shows] not in touched
