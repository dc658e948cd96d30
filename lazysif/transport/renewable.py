"""Secrets that hold for a while and are loaded by a library's blocking calls: one load for all who need it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from lazysif.errors import LazysifError, SourceTimeout

T = TypeVar("T")

_LOAD_S = 15.0
"""Longest wait for a load; whoever asked has a deadline of its own. botocore tries a metadata service twice."""
_FAILED_S = 5.0
"""A load that failed is not repeated for so long: a storm of look-ups asks a token server 12 times a minute."""
_DENIED_S = 30.0
"""The same where the credentials were refused, or there are none: nothing but a person's hand changes that."""
_REFUSED_S = 10.0
"""The same where an origin has refused what was loaded just now."""


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What a load gave. Times are seconds since 1970.

    Args:
        renew_at_s: from then on it is loaded again.
        ends_at_s: until then it is used where that fails.
    """

    value: T
    renew_at_s: float
    ends_at_s: float


class Renewable(Generic[T]):
    """Args:
    load: blocks; True asks to forget what the library itself keeps. Raises LazysifError alone.
    what: for errors: "credentials", "a token".
    """

    def __init__(self, load: Callable[[bool], Held[T]], what: str) -> None:
        self._load = load
        self._what = what
        self._held: Held[T] | None = None
        self._lock = trio.Lock()
        # a load that hangs is abandoned, and a second one may be tried beside it, but no third
        self._threads = trio.CapacityLimiter(2)
        self._failed: LazysifError | None = None
        self._again_at = float("-inf")
        self._anew_at = float("-inf")

    async def current(self) -> T:
        """Raises: LazysifError: it cannot be had."""
        held = self._held
        if held is not None and time.time() < held.renew_at_s:
            return held.value
        async with self._lock:
            held = self._held
            if held is not None and time.time() < held.renew_at_s:
                return held.value
            try:
                return await self._loaded(anew=False)
            except LazysifError:
                if held is not None and time.time() < held.ends_at_s:
                    return held.value
                raise

    async def other_than(self, refused: T) -> T | None:
        """What is to be used instead of a value that an origin has refused; None if there is nothing else."""
        async with self._lock:
            if self._held is not None and self._held.value != refused:
                return self._held.value
            if trio.current_time() - self._anew_at < _REFUSED_S:
                return None
            self._anew_at = trio.current_time()
            value = await self._loaded(anew=True)
            return value if value != refused else None

    async def _loaded(self, *, anew: bool) -> T:
        if self._failed is not None and not anew and trio.current_time() < self._again_at:
            raise self._failed.with_traceback(None)
        try:
            with trio.fail_after(_LOAD_S):
                held = await trio.to_thread.run_sync(
                    self._load_and_keep, anew, abandon_on_cancel=True, limiter=self._threads
                )
        except trio.TooSlowError:
            self._remember(SourceTimeout(f"{self._what} could not be had in time"))
        except LazysifError as error:
            self._remember(error)
        else:
            self._failed = None
            return held.value
        assert self._failed is not None
        raise self._failed.with_traceback(None)

    def _load_and_keep(self, anew: bool) -> Held[T]:
        """On a thread. What comes when nobody waits any more is there for who asks next: a program that takes
        longer than a look-up may would else never give anything."""
        held = self._held = self._load(anew)
        return held

    def _remember(self, error: LazysifError) -> None:
        self._failed = error
        pause_s = _FAILED_S if error.temporary else _DENIED_S
        self._again_at = trio.current_time() + pause_s
