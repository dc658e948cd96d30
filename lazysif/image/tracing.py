"""One image's starts: what they touch is recorded, and what earlier ones touched is asked for ahead of them.

From its first touch until nothing new was touched for `QUIET_S` lies one *phase*. All that goes on in an image
meanwhile is one recording: the kernel does not say whose read it is (a loop device's and squashfuse's reads all come
from one process). Twenty tasks of an array touch what one touches; two different jobs that start in the same
seconds make one path of both.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import trio

from lazysif.core.follow import Ask, Follower
from lazysif.core.trace import Recording, TracePath

QUIET_S = 5.0
"""Without a new block. The longest pause in a heavy import of numeric packages was 0.4 s, on two busy cores."""


class ImageTracing:
    """The phases of one image; used on the trio thread between checkpoints.

    Args:
        length: bytes of a block.
        began: called at the first touch of a phase.
        read_before: the image was read under this mount before, by a daemon or a handle that is gone.
    """

    def __init__(
        self, length: Callable[[int], int], began: Callable[[], None], *, read_before: bool = False
    ) -> None:
        self._length = length
        self._began = began
        self._paths: list[array[int]] = []
        self._recording: Recording | None = None
        self._follower: Follower | None = None
        self._last_s = 0.0
        self._read_before = read_before
        self.partial = False
        """Whether the kernel may hold what was read before this phase, or the one that ended last: it is not seen."""
        self.touched: set[int] | None = None
        """The blocks of this phase; None between phases, when reads from memory begin none."""
        self._decided: trio.Event | None = None
        """Set once it is known whether this node has a trace; None before that is looked up."""

    def look_up(self) -> trio.Event:
        """It is being looked up whether this node has a trace, for some milliseconds, until the event is set."""
        self._decided = trio.Event()
        return self._decided

    async def wait_decided(self) -> None:
        """Until what is known of earlier starts has been asked for, if anything is."""
        if self._decided is not None:
            await self._decided.wait()

    @property
    def following(self) -> bool:
        """Whether a trace is followed, or may be in a moment, so that own guesses step back."""
        undecided = self._decided is not None and not self._decided.is_set()
        return undecided or (self._follower is not None and self._follower.following)

    def touch(self, block: int, now_s: float, *, late: bool = False) -> bool:
        """Note a read of a block; `late`: its reader has to wait. Returns whether it came late from the trace."""
        if self.touched is None:
            self.touched = set()
            self.partial, self._read_before = self._read_before, True
            self._recording = Recording(now_s)
            self._follow()
            self._began()
        if block in self.touched:
            return False
        self._last_s = now_s
        late = late and self.names(block)
        shown = self._follower.touch(block, late=late) if self._follower is not None else []
        self.touched.update(shown, (block,))
        if self._recording is not None:
            for each in (*shown, block):
                self._recording.add(each, now_s)
        return late

    def ask(self, is_missing: Callable[[int], bool]) -> Ask | None:
        """What to bring now."""
        return self._follower.ask(is_missing) if self._follower is not None else None

    def give(self, block: int) -> bool:
        """Whether the kernel may be given a block that has just come, ahead of the job that will read it."""
        return self._follower is not None and self._follower.give(block)

    def unread(self) -> list[int]:
        """The blocks that were asked for ahead of the start and not touched, in the order of asking."""
        return self._follower.unread() if self._follower is not None else []

    def left_a_path(self) -> bool:
        """Whether a start has left a path since this was asked last, so that more may be given to the kernel."""
        return self._follower is not None and self._follower.left_a_path()

    def names(self, block: int) -> bool:
        """Whether a start is known that touched this block."""
        return self._follower is not None and self._follower.names(block)

    def set_paths(self, paths: Sequence[TracePath]) -> None:
        """What is known of this image's starts; may come while one is under way."""
        # 4 bytes a block: paths are kept as long as the image is
        new = [array("I", path.blocks) for path in paths]
        if new == self._paths:
            return
        self._paths = new
        if self._recording is None:
            return
        self._follow()
        if self._follower is not None:
            for block in self._recording.blocks:
                self._follower.touch(block)

    def _follow(self) -> None:
        self._follower = Follower(self._paths, self._length) if self._paths else None

    def quiet_s(self, now_s: float) -> float:
        """How long nothing new was touched."""
        return now_s - self._last_s

    def take_full(self, now_s: float) -> Recording | None:
        """The recording, if it is full: a job that touches new blocks for hours began long ago."""
        if self._recording is None or not self._recording.is_full(now_s):
            return None
        recording, self._recording = self._recording, None
        return recording

    def end(self) -> Recording | None:
        """End the phase; what was recorded of it."""
        recording, self._recording, self._follower, self.touched = self._recording, None, None, None
        return recording
