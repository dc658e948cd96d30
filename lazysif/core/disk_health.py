"""Whether the local disk may be asked: normal → unstable → down → normal. Pure; time comes in as an argument.

    normal     reads and writes
    unstable   reads only; writes pause, and after the pause a probe decides
    down       neither; after the pause a probe decides

A full or read-only disk still reads well, so it never leads beyond unstable. Errors and silence of the
disk or the database do, when `STRIKES` of them come with no good read or write between. A relapse soon
after a recovery pauses longer than the time before, so that a flapping disk is asked less and less.
"""

from __future__ import annotations

from enum import StrEnum

STRIKES = 3
"""Hard troubles in a row that lead to down: one bad sector must not cost the whole cache."""
RELAPSE_S = 60.0
"""Trouble this soon after a recovery doubles the pause instead of starting over."""


class DiskState(StrEnum):
    NORMAL = "normal"
    UNSTABLE = "unstable"
    DOWN = "down"


class Trouble(StrEnum):
    """What a disk can do to us."""

    FULL = "full"
    READ_ONLY = "read-only"
    IO = "i/o error"
    SILENCE = "no answer in time"
    DATABASE = "database refuses"

    @property
    def spares_reads(self) -> bool:
        """True where what is stored can be read as before."""
        return self in (Trouble.FULL, Trouble.READ_ONLY)


class DiskHealth:
    """The state of one cache directory.

    Args:
        first_pause_s: pause after the first trouble.
        longest_pause_s: where doubling stops.
    """

    def __init__(self, *, first_pause_s: float = 1.0, longest_pause_s: float = 60.0) -> None:
        self.state = DiskState.NORMAL
        self.last_trouble: Trouble | None = None
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._pause_s = 0.0
        self._resume_at = 0.0
        self._recovered_at = float("-inf")
        self._strikes = 0

    @property
    def may_write(self) -> bool:
        return self.state is DiskState.NORMAL

    @property
    def may_read(self) -> bool:
        return self.state is not DiskState.DOWN

    def probe_due(self, now: float) -> bool:
        """True when the pause is over and one probe may ask the disk."""
        return self.state is not DiskState.NORMAL and now >= self._resume_at

    def failed(self, trouble: Trouble, now: float) -> None:
        """Note that a read, a write or a probe failed at `now` (seconds of a monotonic clock)."""
        self.last_trouble = trouble
        if self.state is DiskState.NORMAL:
            relapse = now - self._recovered_at < RELAPSE_S
            self._pause(now, self._pause_s * 2 if relapse else self._first_pause_s)
            self.state = DiskState.UNSTABLE
        elif now >= self._resume_at:
            self._pause(now, self._pause_s * 2)
        if not trouble.spares_reads:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self.state = DiskState.DOWN

    def answered(self) -> None:
        """Note a good read: the strikes are forgotten, the state is left to probes."""
        if self.state is not DiskState.DOWN:
            self._strikes = 0

    def recovered(self, now: float) -> None:
        """Note that a write or a probe succeeded at `now`: all is well again."""
        self._strikes = 0
        if self.state is not DiskState.NORMAL:
            self.state = DiskState.NORMAL
            self._recovered_at = now

    def _pause(self, now: float, pause_s: float) -> None:
        self._pause_s = min(max(pause_s, self._first_pause_s), self._longest_pause_s)
        self._resume_at = now + self._pause_s
