"""Every request of the kernel ends in its time, which began when the kernel asked, and is in hand until then."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

import trio

from lazysif.core.asked import Asked, left_s
from lazysif.errors import DeadlineExceeded
from lazysif.telemetry import InHand

_T = TypeVar("_T")


class Deadlines:
    """Args:
    timeout_s: within which everything ends that waits for no bytes of an image, in an answer or an error.
    asked: since when requests wait that a predecessor of this daemon left.
    """

    def __init__(self, timeout_s: float, asked: Asked) -> None:
        self._timeout_s = timeout_s
        self._asked = asked
        self.in_hand = InHand()

    def since(self, kind: str, what: Hashable) -> float:
        """Since when the kernel waits for a request that was read now."""
        return self._asked.since((kind, what), time.monotonic())

    async def in_time(
        self, kind: str, what: Hashable, work: Callable[..., Awaitable[_T]], *arguments: object
    ) -> _T:
        """What `work(*arguments)` returns, for a request of this kind that asks for `what`.

        Raises:
            DeadlineExceeded: its time is over; and whatever the work raises.
        """
        since_s = self.since(kind, what)
        mark = self.in_hand.enter(kind, since_s, what)
        try:
            with trio.fail_after(left_s(self._timeout_s, time.monotonic() - since_s)):
                return await work(*arguments)
        except trio.TooSlowError:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s") from None
        finally:
            self.in_hand.leave(mark)
