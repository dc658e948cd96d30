"""Lanes: demand goes before background, and background never takes all places. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass(slots=True, eq=False)
class Ticket:
    """One extent on its way to its places, one for each attempt.

    `demand` turns true when somebody waits for it (see `Lanes.promote`), and stays so.
    """

    demand: bool
    _entered: trio.Event = field(default_factory=trio.Event)
    _held_as_demand: bool = False


class Lanes:
    """Places for requests under way to one remote.

    Args:
        places: requests at once.
        background_places: how many of them background may hold.
    """

    def __init__(self, places: int, background_places: int) -> None:
        self._places = places
        self._background_places = background_places
        self._demand_queue: deque[Ticket] = deque()
        self._background_queue: deque[Ticket] = deque()
        self._demand_held = 0
        self._background_held = 0

    @asynccontextmanager
    async def place(self, ticket: Ticket) -> AsyncIterator[None]:
        """Hold a place. Waits first come first served within a lane, demand before background."""
        ticket._entered = trio.Event()
        ticket._entered = trio.Event()
        (self._demand_queue if ticket.demand else self._background_queue).append(ticket)
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

        A place that it holds stays counted as background's.
        """
        ticket.demand = True
        if ticket in self._background_queue:
            self._background_queue.remove(ticket)
            self._demand_queue.append(ticket)
            self._admit()

    def _leave_queue(self, ticket: Ticket) -> None:
        if ticket._entered.is_set():
            self._release(ticket)
        elif ticket in self._demand_queue:
            self._demand_queue.remove(ticket)
        else:
            self._background_queue.remove(ticket)

    def _release(self, ticket: Ticket) -> None:
        if ticket._held_as_demand:
            self._demand_held -= 1
        else:
            self._background_held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._demand_held + self._background_held < self._places:
            if self._demand_queue:
                ticket = self._demand_queue.popleft()
                self._demand_held += 1
                ticket._held_as_demand = True
            elif self._background_queue and self._background_held < self._background_places:
                ticket = self._background_queue.popleft()
                self._background_held += 1
                ticket._held_as_demand = False
            else:
                return
            ticket._entered.set()
