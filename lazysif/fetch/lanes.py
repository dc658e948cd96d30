"""Lanes: demand goes before background, background before bulk, and neither of these takes all places. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum

import trio

_LONGEST_WAY_S = 0.1
"""A bulk transfer that has given way for so long takes a piece all the same: it crawls, and is not broken off."""


class Lane(IntEnum):
    """In the order in which places are given.

    DEMAND: somebody waits for it. BACKGROUND: somebody will soon. BULK: nobody that is known.
    """

    DEMAND = 0
    BACKGROUND = 1
    BULK = 2


@dataclass(slots=True, eq=False)
class Ticket:
    """One extent on its way to its places, one for each attempt.

    `demand` turns true when somebody waits for it (see `Lanes.promote`), and stays so.
    """

    demand: bool
    bulk: bool = False
    _entered: trio.Event = field(default_factory=trio.Event)
    _promoted: trio.Event = field(default_factory=trio.Event)
    _held_as: Lane = Lane.DEMAND

    @property
    def lane(self) -> Lane:
        if self.demand:
            return Lane.DEMAND
        return Lane.BULK if self.bulk else Lane.BACKGROUND


class Lanes:
    """Places for requests under way to one remote.

    Args:
        places: requests at once.
        background_places: how many of them background and bulk may hold together; bulk alone has half of these.
    """

    def __init__(self, places: int, background_places: int) -> None:
        self._places = places
        self._background_places = background_places
        self._bulk_places = max(1, background_places // 2)
        self._queues: dict[Lane, deque[Ticket]] = {lane: deque() for lane in Lane}
        self._held = dict.fromkeys(Lane, 0)
        self._no_demand = trio.Event()

    @asynccontextmanager
    async def place(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a place. Waits first come first served within a lane, demand before background before bulk."""
        ticket._entered = trio.Event()
        self._queues[ticket.lane].append(ticket)
        self._admit()
        try:
            await ticket._entered.wait()
        except trio.Cancelled:
            self._leave_queue(ticket)
            raise
        try:
            yield
        finally:
            self._release(ticket)

    def promote(self, ticket: Ticket) -> None:
        """Somebody waits for it now: in the queue it moves to demand, and its next attempt begins there.

        A place that it holds stays counted as its old lane's.
        """
        before = ticket.lane
        ticket.demand = True
        ticket._promoted.set()
        if before is not Lane.DEMAND and ticket in self._queues[before]:
            self._queues[before].remove(ticket)
            self._queues[Lane.DEMAND].append(ticket)
            self._admit()

    async def give_way(self, ticket: Ticket) -> None:
        """Between two pieces of a bulk transfer: wait while demand is under way, a moment at most.

        What is not read meanwhile the origin does not send, so that demand has the path for itself.
        """
        if ticket.lane is not Lane.BULK or not self._demand:
            return
        with trio.move_on_after(_LONGEST_WAY_S):
            while self._demand and not ticket.demand:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first, self._no_demand, nursery.cancel_scope)
                    nursery.start_soon(_first, ticket._promoted, nursery.cancel_scope)

    @property
    def _demand(self) -> bool:
        return bool(self._held[Lane.DEMAND] or self._queues[Lane.DEMAND])

    def _leave_queue(self, ticket: Ticket) -> None:
        if ticket._entered.is_set():
            self._release(ticket)
            return
        self._queues[ticket.lane].remove(ticket)
        self._tell()

    def _release(self, ticket: Ticket) -> None:
        self._held[ticket._held_as] -= 1
        self._admit()
        self._tell()

    def _tell(self) -> None:
        if not self._demand:
            self._no_demand.set()
            self._no_demand = trio.Event()

    def _admit(self) -> None:
        while sum(self._held.values()) < self._places:
            lane = next((lane for lane in Lane if self._queues[lane] and self._has_room(lane)), None)
            if lane is None:
                return
            ticket = self._queues[lane].popleft()
            self._held[lane] += 1
            ticket._held_as = lane
            ticket._entered.set()

    def _has_room(self, lane: Lane) -> bool:
        behind = self._held[Lane.BACKGROUND] + self._held[Lane.BULK]
        return lane is Lane.DEMAND or (
            behind < self._background_places
            and (lane is Lane.BACKGROUND or self._held[Lane.BULK] < self._bulk_places)
        )


async def _first(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
