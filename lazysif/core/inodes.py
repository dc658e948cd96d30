"""What the kernel holds: lookup counts. Pure.

The kernel counts a lookup for every entry it is given (LOOKUP replies and accepted readdirplus entries, but not
`.` and `..`) and returns them by FORGET. pyfuse3 leaves the counting to us.
"""

from __future__ import annotations

from collections.abc import Iterable

from lazysif.model import InodeNumber


class LookupCounts:
    """How many references the kernel holds on each inode number."""

    def __init__(self) -> None:
        self._counts: dict[InodeNumber, int] = {}

    def add(self, number: InodeNumber) -> None:
        self._counts[number] = self._counts.get(number, 0) + 1

    def forget(self, returned: Iterable[tuple[InodeNumber, int]]) -> list[InodeNumber]:
        """Give references back; returns the numbers that the kernel no longer holds.

        Numbers never seen are fine: a restarted daemon is told to forget what its predecessor gave out.
        """
        gone = []
        for number, lookups in returned:
            left = self._counts.get(number, 0) - lookups
            if left > 0:
                self._counts[number] = left
            else:
                self._counts.pop(number, None)
                gone.append(number)
        return gone

    def held(self, number: InodeNumber) -> bool:
        return number in self._counts

    def __len__(self) -> int:
        return len(self._counts)
