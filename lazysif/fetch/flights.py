"""Flights: at most one fetch under way for each block of each image.

A flight ends in data or an `Exception`, never a `BaseException`: a cancelled reader only stops waiting, so its
cancellation reaches nobody else. All state changes happen between checkpoints on the trio thread.
"""

from __future__ import annotations

import trio

from lazysif.errors import LazysifError
from lazysif.fetch.lanes import Ticket
from lazysif.model import Buffer, ImageId

_Key = tuple[ImageId, int]
_REMEMBERED_S = 1.0
"""The kernel asks once more for a page that could not be read ahead, and so do all tasks that read the block."""


class Flight:
    """One block on its way. `ticket` is that of the extent that brings it."""

    __slots__ = ("_data", "_done", "_error", "index", "ticket")

    def __init__(self, index: int, ticket: Ticket) -> None:
        self.index = index
        self.ticket = ticket
        self._done = trio.Event()
        self._data: Buffer | None = None
        self._error: LazysifError | None = None

    async def wait(self) -> Buffer:
        """The block's bytes; no checkpoint where it has landed. Raises what ended the flight."""
        if not self._done.is_set():
            await self._done.wait()
        if self._data is None:
            assert self._error is not None
            # one error may be raised by many readers: each begins a traceback of its own
            raise self._error.with_traceback(None)
        return self._data

    def land(self, data: Buffer) -> None:
        self._data = data
        self._done.set()

    def fail(self, error: LazysifError) -> None:
        self._error = error
        self._done.set()


class FlightTable:
    """The flights under way, and those that failed a moment ago, by image and block."""

    def __init__(self) -> None:
        self._flights: dict[_Key, Flight] = {}
        self._failed: dict[_Key, tuple[float, Flight]] = {}

    def get(self, image_id: ImageId, index: int) -> Flight | None:
        key = (image_id, index)
        flight = self._flights.get(key)
        if flight is None and key in self._failed:
            until, failed = self._failed[key]
            return failed if until > trio.current_time() else None
        return flight

    def add(self, image_id: ImageId, flight: Flight) -> None:
        key = (image_id, flight.index)
        assert key not in self._flights, "a block is never fetched twice at once"
        self._flights[key] = flight

    def remove(self, image_id: ImageId, index: int) -> Flight | None:
        return self._flights.pop((image_id, index), None)

    def fail(self, image_id: ImageId, index: int, error: LazysifError, *, remembered: bool) -> None:
        """End a flight in an error; `remembered`, who comes a moment later gets the same error at once."""
        key = (image_id, index)
        flight = self._flights.pop(key)
        flight.fail(error)
        now = trio.current_time()
        for old in [old for old, (until, _) in self._failed.items() if until <= now]:
            del self._failed[old]
        if remembered:
            self._failed[key] = (now + _REMEMBERED_S, flight)

    def __len__(self) -> int:
        return len(self._flights)
