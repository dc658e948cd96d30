"""Brings blocks: extents as ranged GETs, retried, checked, cut into blocks and handed to a sink.

An extent runs in the nursery of the daemon; readers wait for its flights. Each block lands as soon as its last
byte is there, so a reader does not wait for the rest of the extent, and an extent that breaks off keeps what came.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from lazysif.core.block_cutter import BlockCutter
from lazysif.core.block_map import BlockMap, extent_range, length
from lazysif.core.content_range import (
    check_range_answer,
    check_whole_answer,
    content_length,
    same_version_headers,
)
from lazysif.core.plan import in_stripes
from lazysif.core.retry import retry_delay_s
from lazysif.errors import (
    AccessDenied,
    ImageChanged,
    LazysifError,
    SourceError,
    SourceUnavailable,
)
from lazysif.fetch.begun import Begun
from lazysif.fetch.contact import Contact
from lazysif.fetch.extent import Extent, Sink
from lazysif.fetch.flights import Flight, FlightTable
from lazysif.fetch.hedge import Hedge
from lazysif.fetch.lanes import Lane, Lanes, Ticket
from lazysif.fetch.locations import Locations
from lazysif.model import Answer, Buffer, Image, Location, Request, Transport, Validator, ValidatorKind
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)


_LANDED_AT_ONCE = 512 << 10
"""Bytes that are taken in before others have their turn, 0.2 ms: at each turn of the event loop the thread lets go of
the GIL, and has to wait for it while libcurl's and the cache's threads are busy."""
_TURN_SHARE = 0.95
"""Of a read's time: who waits for an origin that is offline fails with its name, before the plain deadline."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Times in seconds, counts per remote."""

    connections: int = 16
    background_connections: int = 8
    read_budget_s: float = 60.0
    stall_s: float = 20.0
    whole_file_budget_s: float = 600.0
    max_attempts: int = 20
    stripe_bytes: int = 0
    """Where no request may go across, see `fetch.routes`; 0 for nowhere."""


class Fetcher:
    """Fetches of one remote.

    Args:
        nursery: of the daemon; extents run in it.
        flights: shared by all remotes of the daemon.
        locations: where the bytes of each version are now.
        contact: what `transport` tells of the origin; extents that somebody waits for share the tries of an
            origin that is offline, others are not sent.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        transport: Transport,
        flights: FlightTable,
        limits: FetchLimits,
        counters: Counters,
        locations: Locations,
        contact: Contact | None = None,
    ) -> None:
        self.contact = contact or Contact()
        self.locations = locations
        self.begun = Begun(nursery, transport)
        self._nursery = nursery
        self._transport = transport
        self._flights = flights
        self._limits = limits
        self._counters = counters
        self._lanes = Lanes(limits.connections, limits.background_connections)
        self._hedge = Hedge(nursery, transport, counters)
        self._downloads = f"download {random.getrandbits(64):016x}"
        self._unrepeatable: set[str] = set()

    @property
    def whole_file_budget_s(self) -> float:
        return self._limits.whole_file_budget_s

    @property
    def background_connections(self) -> int:
        """Requests that go ahead of readers at once."""
        return self._limits.background_connections

    def new_download(self) -> Validator:
        """What stands for the version of one whole download, where the origin gives no validator."""
        return Validator(ValidatorKind.NONE, f"{self._downloads} {random.getrandbits(64):016x}")

    def flight(self, image: Image, index: int, *, demand: bool) -> Flight | None:
        """The flight of a block if it is under way; demand moves it ahead of background."""
        flight = self._flights.get(image.id, index)
        if flight is not None and demand:
            self._lanes.promote(flight.ticket)
        return flight

    def start(
        self,
        image: Image,
        block_map: BlockMap,
        blocks: Sequence[int],
        sink: Sink,
        *,
        demand: bool,
        bulk: bool = False,
    ) -> list[Flight]:
        """Start an extent of blocks, in rising order, none of them under way; one for each stripe. Never waits.

        The blocks are neighbours, or any of an image that its origin sends whole. `bulk` is what nobody is known
        to want soon (`lanes.Lane`).
        """
        ticket = partial(Ticket, demand, bulk)
        if isinstance(blocks, range) and image.ranges:
            parts = in_stripes(block_map, blocks, self._limits.stripe_bytes)
            return [
                flight for part in parts for flight in self._start(image, block_map, part, sink, ticket())
            ]
        return self._start(image, block_map, blocks, sink, ticket())

    def _start(
        self, image: Image, block_map: BlockMap, blocks: Sequence[int], sink: Sink, ticket: Ticket
    ) -> list[Flight]:
        extent = Extent(image, block_map, sink, ticket)
        for index in blocks:
            flight = Flight(index, extent.ticket)
            self._flights.add(image.id, flight)
            extent.flights[index] = flight
        started = list(extent.flights.values())
        if started:
            self._nursery.start_soon(
                self._bring, extent, name=f"extent {image.name} {blocks[0]}+{len(started)}"
            )
        return started

    async def _bring(self, extent: Extent) -> None:
        """Run the extent until all its flights have landed or failed; never raises an Exception."""
        try:
            await self._attempts(extent)
        except LazysifError as error:
            error.about(image=extent.image.name, origin=extent.image.location.origin)
            log.warning("fetch failed: %s", error)
            self._fail(extent, error)
        except Exception:
            log.exception("fetch of %s failed in an unexpected way", extent.image.name)
            self._counters.unexpected_errors += 1
            self._fail(extent, SourceError("internal error, see the log", image=extent.image.name))
        finally:
            # reached with flights left only when the daemon shuts down
            self._fail(extent, SourceUnavailable("the daemon is shutting down", image=extent.image.name))

    def _fail(self, extent: Extent, error: LazysifError) -> None:
        for index in extent.flights:
            self._flights.fail(extent.image.id, index, error, remembered=extent.ticket.demand)
        extent.flights.clear()

    async def _attempts(self, extent: Extent) -> None:
        began = trio.current_time()
        budget_s = self._limits.read_budget_s if extent.image.ranges else self._limits.whole_file_budget_s
        attempt = 0
        while extent.flights:
            attempt += 1
            left_before = len(extent.flights)
            elapsed_s = trio.current_time() - began
            try:
                if not extent.ticket.demand and self.contact.offline:
                    raise self.contact.error()
                wait_s = _TURN_SHARE * budget_s - elapsed_s
                async with (
                    self.contact.turn(wait_s, self._limits.stall_s) as stall_s,
                    self._lanes.place(extent.ticket),
                ):
                    await self._transfer(extent, budget_s - (trio.current_time() - began), stall_s)
            except LazysifError as error:
                if len(extent.flights) < left_before:
                    attempt = 1  # it moved: what broke off is a new failure, not the same again
                delay_s = retry_delay_s(
                    error,
                    attempt,
                    elapsed_s=trio.current_time() - began,
                    budget_s=budget_s,
                    max_attempts=self._attempts_of(extent),
                    jitter=random.random(),
                )
                if delay_s is None:
                    raise
                error.about(image=extent.image.name)
                log.info("retry in %.1f s: %s", delay_s, error)
                self._counters.retries += 1
                await trio.sleep(delay_s)

    def _attempts_of(self, extent: Extent) -> int:
        if extent.image.location.once:
            return 2
        if extent.ticket.demand:
            return self._limits.max_attempts
        return 1 if self.contact.offline else 3

    async def _transfer(self, extent: Extent, total_s: float, stall_s: float) -> None:
        """Bring what the extent still lacks; a URL that is refused is renewed once, if it can be."""
        location = await self.locations.current(extent.image)
        try:
            await self._request(extent, location, total_s, stall_s)
        except (AccessDenied, ImageChanged):
            renewed = await self.locations.renewed(extent.image, location)
            # a URL that names the digest stays as it is: what the registry has renewed is its token
            if renewed is location or (renewed.url == location.url and not renewed.content_addressed):
                raise
            await self._request(extent, renewed, total_s, stall_s)

    async def _request(self, extent: Extent, location: Location, total_s: float, stall_s: float) -> None:
        """One request for what the extent still lacks."""
        # the location knows how its store marks versions; that of an image out of the state directory does not
        image, blocks = replace(extent.image, location=location), extent.remaining()
        if image.ranges:
            asked = extent_range(extent.block_map, blocks)
        else:
            self._refuse_second_download(image)
            asked, blocks = None, range(extent.block_map.count)
        request = Request(
            url=location.url,
            headers=same_version_headers(image.condition),
            byte_range=asked,
            stall_s=stall_s,
            total_s=max(total_s, 0.1),
            image=image,
            once=location.once,
            bulk=length(extent.block_map, blocks.start) if extent.ticket.lane is Lane.BULK else 0,
        )
        self._counters.fetch_requests += 1
        async with self._answer(request, image, in_haste=extent.ticket.demand) as answer:
            if asked is not None:
                check_range_answer(answer.head, asked, image)
            else:
                check_whole_answer(answer.head, image)
            async with aclosing(answer.chunks()) as chunks:
                await self._land_blocks(
                    extent, blocks, chunks, length_known=content_length(answer.head.headers) is not None
                )

    @asynccontextmanager
    async def _answer(self, request: Request, image: Image, *, in_haste: bool) -> AsyncIterator[Answer]:
        """The answer that a look-up has begun and kept, else one to a new request."""
        async with self.begun.take(image.id) as answer:
            if answer is not None:
                yield answer
                return
        async with self._hedge.send(request, in_haste=in_haste and not self.contact.offline) as answer:
            yield answer

    def _refuse_second_download(self, image: Image) -> None:
        """Without a validator nothing tells whether a second download is of the same version.

        One that a predecessor of this process began is a first one, too. Where the registry knows the digest of
        the whole, that tells: it is asked for again before a second download, and checked when all is there.
        """
        if image.condition.kind is not ValidatorKind.NONE or image.validator.kind is ValidatorKind.DIGEST:
            return
        if image.id in self._unrepeatable or not image.condition.value.startswith(self._downloads):
            raise ImageChanged("the origin gives no validator, so its file cannot be downloaded in two goes")

    async def _land_blocks(
        self, extent: Extent, blocks: range, chunks: AsyncIterator[bytes], *, length_known: bool
    ) -> None:
        """Land each block when it is there; in an answer of unsaid length all of them, when its end has come.

        Some origins put a right Content-Range before the file's first byte: only the length gives them away.
        """
        cutter = BlockCutter(extent.block_map, blocks)
        held: list[tuple[int, Buffer]] = []
        landed_bytes = 0
        async for chunk in chunks:
            self._counters.fetched_bytes += len(chunk)
            landed_bytes += len(chunk)
            if landed_bytes >= _LANDED_AT_ONCE:
                landed_bytes = 0
                await trio.lowlevel.checkpoint()
            held += cutter.feed(chunk)
            if length_known:
                self._land_all(extent, held)
            await extent.sink.room()
            await self._lanes.give_way(extent.ticket)
        if not cutter.complete:
            raise SourceUnavailable("the origin's answer ended early")
        self._land_all(extent, held)

    def _land_all(self, extent: Extent, blocks: list[tuple[int, Buffer]]) -> None:
        for index, data in blocks:
            self._land(extent, index, data)
        blocks.clear()

    def _land(self, extent: Extent, index: int, data: Buffer) -> None:
        flight = extent.flights.pop(index, None)
        if flight is None:
            return  # a whole download passes blocks that nobody lacks
        if extent.image.condition.kind is ValidatorKind.NONE:
            self._unrepeatable.add(extent.image.id)
        extent.sink.accept(index, data)
        self._flights.remove(extent.image.id, index)
        flight.land(data)
