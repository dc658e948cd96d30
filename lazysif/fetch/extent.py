"""Neighbouring blocks that one request brings, and where they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from lazysif.core.block_map import BlockMap
from lazysif.fetch.flights import Flight
from lazysif.fetch.lanes import Ticket
from lazysif.model import Buffer, Image


class Sink(Protocol):
    """Where blocks go before their readers are woken."""

    def accept(self, index: int, data: Buffer) -> None: ...

    async def room(self) -> None:
        """Wait while too much is on its way to the disk."""
        ...


@dataclass(slots=True, eq=False)
class Extent:
    """Neighbouring blocks of one image that one request brings; `flights` are those still under way."""

    image: Image
    block_map: BlockMap
    sink: Sink
    ticket: Ticket
    flights: dict[int, Flight] = field(default_factory=dict)

    def remaining(self) -> range:
        """From the first block still wanted to the last."""
        return range(min(self.flights), max(self.flights) + 1)
