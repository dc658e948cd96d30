"""Which blocks of a trace the kernel may be given before a job reads them. Pure.

What lies in the kernel's page cache is read without us: faster (a read that comes to us costs 0.1 to 0.3 ms), and
unseen. So that a follower still knows where a start is, some blocks of each path are *watched*: they stay with us,
and a touch of one shows that the blocks given since the last but one before it were read, too (why not the last, says
`_shows`). What no watched block would show is not given.

One in four is watched where jobs part, near the beginning, and fewer further on. A heavy import with all blocks
cached asked us for 3,920 reads, and spent 1.5 s with one under way; with one in four watched all along 1,250 and
0.5 s; so 470 and 0.27 s.

Its number decides whether a block is watched, so that paths that share it agree, wherever it stands in each: a block
is given only where no path that a start may be on watches it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Protocol

_EVERY = ((64, 4), (256, 8))
_EVERY_LATER = 16
"""Below which place one in how many blocks is watched."""
_LONGEST = 2
"""Times that: watched are no further apart than that, wherever chance leaves none."""
_GOLDEN = 0x9E37_79B1
"""2^32 times the golden section: of any run of neighbours it picks evenly spaced ones."""


class Path(Protocol):
    """The blocks of a path in their order, the place of each, and what `watch` says of each place."""

    @property
    def blocks(self) -> Sequence[int]: ...

    @property
    def place(self) -> Mapping[int, int]: ...

    @property
    def shown_at(self) -> Sequence[int]: ...


def watch(blocks: Sequence[int]) -> list[int]:
    """For each place of a path the next that is watched: itself where it is, the path's length where none follows."""
    shown_at = [len(blocks)] * len(blocks)
    since = 0
    for place, block in enumerate(blocks):
        every = next((step for below, step in _EVERY if place < below), _EVERY_LATER)
        if (block * _GOLDEN) % (1 << 32) * every < 1 << 32 or place - since >= _LONGEST * every:
            shown_at[since : place + 1] = [place] * (place + 1 - since)
            since = place + 1
    return shown_at


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
        shown: list[int] = []
        for path in paths:
            place = path.place.get(block)
            if self._given and place is not None:
                shown += (each for each in _shows(path, place) if each in self._given)
                self._given.difference_update(shown)
        return shown


def _shows(path: Path, place: int) -> Sequence[int]:
    """The blocks of which a touch of this place tells that they were read: those that it is watched for, and those
    that the watched block before it was for.

    That one may have been touched only by the kernel's reading on past its neighbour, which it does not do where it
    was given pages: of a heavy import's 1,431 blocks 71 stood before 6 such, and its next recording lacked them.
    """
    if path.shown_at[place] != place:
        return ()
    before = max(_first_of(path, place) - 1, 0)
    return path.blocks[_first_of(path, before) : place]


def _first_of(path: Path, watched: int) -> int:
    """The first place that a watched one is watched for."""
    first = watched
    while first > 0 and path.shown_at[first - 1] == watched:
        first -= 1
    return first


def _will_show(path: Path, block: int, touched: Container[int]) -> bool:
    """Whether a touch that is still to come on this path shows that the block was read."""
    place = path.place.get(block)
    if place is None:
        return False
    shows = path.shown_at[place]
    return place < shows < len(path.blocks) and path.blocks[shows] not in touched
