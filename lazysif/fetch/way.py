"""One way to the bytes: a base URL (the remote's own or a mirror's), and what lies between (a proxy or nothing).

A way that fails is left alone for a while that grows and is jittered; then one request at a time tries it again.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from typing import Any

import trio

from lazysif.errors import LazysifError
from lazysif.model import Transport

log = logging.getLogger(__name__)

_FIRST_REST_S = 2.0
_LONGEST_REST_S = 300.0
_LONGEST_REST_OF_THE_ORIGIN_S = 30.0
"""It alone says what names mean now."""
_REST_FOR_TIME_LOST = 6.0
"""Of several that hang, none is tried twice before the last is tried once."""


@dataclass(eq=False, slots=True)
class Way:
    """One way, and how it is.

    Args:
        name: what people see, and what nodes agree by.
        transport: with the proxy, where there is one.
        mirror: its base URL; None is the remote's own.
        forwarded: whether a proxy lies between.
    """

    name: str
    transport: Transport = field(repr=False)
    mirror: str | None = field(default=None, repr=False)
    forwarded: bool = False
    requests: int = 0
    received_bytes: int = 0
    failures: int = 0
    """In a row."""
    last_error: str = ""
    refuses_its_own: bool = False
    """A mirror that answers 412 to the very ETag that it gives: its answers tell the version all the same."""
    _failed_at: float = float("-inf")
    _rests_until: float = float("-inf")
    _tried: bool = False

    @property
    def ready(self) -> bool:
        """Whether it takes requests; after a failure and a rest one at a time."""
        return not self.failures or (not self._tried and trio.current_time() >= self._rests_until)

    @property
    def direct(self) -> bool:
        """Straight to the remote's own URL: whose answers are final."""
        return self.mirror is None and not self.forwarded

    def begin(self) -> float:
        """A request goes this way; give what this returns to the others."""
        self.requests += 1
        self._tried = self.failures > 0
        return trio.current_time()

    def end(self) -> None:
        """It is over, however it went."""
        self._tried = False

    def worked(self, began: float) -> None:
        """An answer came whole."""
        if self.failures and began > self._failed_at:
            log.warning("%s works again", self.name)
            self.failures = 0

    def failed(self, began: float, error: LazysifError, heard_at: float | None = None) -> None:
        """Nothing came, or nothing more since `heard_at`.

        What was sent before an earlier failure says nothing new.
        """
        if began <= self._failed_at:
            return
        self._failed_at = trio.current_time()
        # what costs its readers long is not to be tried often
        least_s = max(_FIRST_REST_S, _REST_FOR_TIME_LOST * (self._failed_at - (heard_at or began)))
        most_s = _LONGEST_REST_S if not self.direct else _LONGEST_REST_OF_THE_ORIGIN_S
        rest_s = min(least_s * 2 ** min(self.failures, 10), most_s) * (0.75 + random.random() / 4)
        self._rests_until = self._failed_at + rest_s
        self.failures += 1
        self.last_error = str(error)
        log.warning("%s is left alone for %.1f s: %s", self.name, rest_s, error)

    def status(self) -> dict[str, Any]:
        """For people; on any thread."""
        return {
            "name": self.name,
            "state": "resting" if self.failures else "ready",
            "requests": self.requests,
            "received_bytes": self.received_bytes,
            "failures": self.failures,
            "last_error": self.last_error,
        }
