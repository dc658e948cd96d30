"""Since when the kernel waits for a request, so that its deadline does not begin anew with each daemon. Pure.

The kernel does not say how old a request is, and a daemon that takes a mount over is asked again what its
predecessor had in hand (`lazysif.keeper`). Two things tell:

- A daemon says every second what it has in hand and since when. The keeper keeps the last words and gives them to
  the next daemon, which knows these requests again by what they ask for.
- All else that waits was read by nobody when the last words were said, so it is taken to be as old as the next ones
  would have been, a second later. A daemon that was stopped and goes on knows it by its own last words.

So a deadline can be a second late. A request that is new in the first moments cannot be told from one that waits, and
is held for older than it is. Those moments are few: a new request that has lost its time fails where an origin is
sick for a while, which it would have seen through.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from hashlib import blake2b

_DRAIN_S = 0.5
"""In which a daemon has read what waited for it: 1,000 requests take it 0.2 s on an idle machine. What is read later
counts as new,"""
_KNOWN_S = 5.0
"""unless it is known from the words."""
_WORDS_EVERY_S = 1.0
_STOPPED_S = 2.0
"""A daemon that speaks every second and was silent for so long did not run."""
_LEAST_S = 5.0
"""What a request still gets, however old it is: an origin that is well answers in that time."""
_REMEMBERED_S = 1.0
"""The kernel asks once more, by itself and at once, for the page that it could not read ahead."""
_MOST_WORDS = 1200
"""Above the number of requests that a daemon handles at once: 40 kB, which a message to the keeper can carry."""


def left_s(timeout_s: float, waited_s: float) -> float:
    """What is left of a request's time: at least 5 s, or half of the timeout where that is less."""
    return max(timeout_s - waited_s, min(_LEAST_S, timeout_s / 2)) if waited_s > 0 else timeout_s


def words_of(requests: Iterable[tuple[Hashable, float]]) -> dict[str, float]:
    """Requests in hand as a daemon tells of them: what they ask for, by a digest, and since when."""
    oldest = sorted(requests, key=lambda request: request[1])[:_MOST_WORDS]
    return {_digest(what): round(since_s, 3) for what, since_s in reversed(oldest)}


class Asked:
    """Knows since when requests wait. Times are in seconds of a clock that all processes share.

    Args:
        words: what a predecessor had in hand when it spoke last (`words_of`).
        heard_s: when that was; None for the first daemon of a mount.
    """

    def __init__(self, words: Mapping[str, float] | None = None, heard_s: float | None = None) -> None:
        self.first = heard_s is None
        """Whether this is the first daemon of the mount."""
        self._words = dict(words or {})
        self._waiting_since_s = None if heard_s is None else heard_s + _WORDS_EVERY_S
        self._drained_s = float("inf")
        self._awake_s: float | None = None

    def began(self, now: float) -> None:
        """The daemon reads requests from now on."""
        self._drained_s = now + _DRAIN_S
        self._awake_s = now

    def awake(self, now: float) -> None:
        """To be called every second: what waits for a daemon that was stopped waits since then."""
        if self._awake_s is None:
            return
        if now - self._awake_s >= _STOPPED_S:
            self._waiting_since_s = self._awake_s + _WORDS_EVERY_S
            self._drained_s = now + _DRAIN_S
        self._awake_s = now

    def since(self, what: Hashable, now: float) -> float:
        """Since when a request waits that was read now."""
        self.awake(now)
        if self._waiting_since_s is None:
            return now
        if now > self._drained_s + _KNOWN_S:
            self._waiting_since_s = None
            self._words.clear()
            return now
        known = self._words.get(_digest(what)) if self._words else None
        if known is None and now > self._drained_s:
            return now
        return min(now, self._waiting_since_s if known is None else known)


class GivenUp:
    """Ranges of files that did not come in time, for a moment: what the kernel asks once more has no time left."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[float, int, int]]] = {}

    def add(self, number: int, offset: int, size: int, now: float) -> None:
        """A read of this inode was given up."""
        for known in list(self._ranges):
            self._prune(known, now)
        self._ranges.setdefault(number, []).append((now + _REMEMBERED_S, offset, offset + size))

    def covers(self, number: int, offset: int, size: int, now: float) -> bool:
        """Whether a read asks for a part of what was given up a moment ago."""
        if number not in self._ranges:
            return False
        self._prune(number, now)
        return any(
            start <= offset and offset + size <= stop for _, start, stop in self._ranges.get(number, ())
        )

    def _prune(self, number: int, now: float) -> None:
        left = [known for known in self._ranges[number] if known[0] > now]
        if left:
            self._ranges[number] = left
        else:
            del self._ranges[number]


def _digest(what: Hashable) -> str:
    return blake2b(repr(what).encode(), digest_size=8).hexdigest()
