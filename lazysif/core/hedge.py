"""When a request has taken so long that it is better sent again, and how much may be spent on that. Pure.

"The Tail at Scale" (Dean and Barroso, 2013): a second request after the time that 99 of 100 like it took cuts the
slowest answers at the price of one request in a hundred.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

_KEPT = 200
"""Answers of one class that are remembered: the path of an hour ago tells little."""
_LEAST = 100
"""With fewer the 99th of 100 is not known, and nothing is sent again."""
_EXTRA = 0.02
"""Of all bytes that were asked for, at most."""
_CLASSES = (256 << 10, 1 << 20, 4 << 20)
"""Bytes up to which requests are alike; a larger one is like no other."""
_LEAST_S = 0.005


class Tail:
    """What is known of the times to an answer of one remote."""

    def __init__(self) -> None:
        self._recent: list[deque[float]] = [deque() for _ in _CLASSES]
        self._sorted: list[list[float]] = [[] for _ in _CLASSES]
        self._asked_bytes = 0
        self._extra_bytes = 0

    def note(self, size_bytes: int, seconds: float) -> None:
        """A request of that size was answered (its head came) after so long."""
        self._asked_bytes += size_bytes
        like = _class(size_bytes)
        if like is None:
            return
        recent, ordered = self._recent[like], self._sorted[like]
        recent.append(seconds)
        insort(ordered, seconds)
        if len(recent) > _KEPT:
            del ordered[bisect_left(ordered, recent.popleft())]

    def patience_s(self, size_bytes: int) -> float | None:
        """After so long without an answer it is better sent again; None: not known, or too large."""
        like = _class(size_bytes)
        if like is None or len(self._sorted[like]) < _LEAST:
            return None
        ordered = self._sorted[like]
        return max(ordered[(len(ordered) * 99) // 100], _LEAST_S)

    def spend(self, size_bytes: int) -> bool:
        """Whether it may be sent again; counts it as sent."""
        if self._extra_bytes + size_bytes > _EXTRA * self._asked_bytes:
            return False
        self._extra_bytes += size_bytes
        return True


def _class(size_bytes: int) -> int | None:
    place = bisect_left(_CLASSES, size_bytes)
    return place if place < len(_CLASSES) else None
