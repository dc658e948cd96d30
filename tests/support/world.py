"""Everything between the kernel's shim and the origin, joined as the daemon joins it, on given directories."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.core.asked import Asked
from lazysif.core.identity import ROOT_INODE
from lazysif.fetch.contact import Contact, WatchedTransport
from lazysif.fetch.fetcher import Fetcher, FetchLimits
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.locations import Locations
from lazysif.fetch.policy import RemotePolicy
from lazysif.fetch.remote import Remote
from lazysif.image.starts import Starts
from lazysif.model import InodeNumber, Transport
from lazysif.registries.http import HttpRegistry
from lazysif.telemetry import Counters
from lazysif.traces.store import TraceStore
from lazysif.tree.open_images import OpenImages
from lazysif.tree.reading import PagesAhead
from lazysif.tree.state import StateStore
from lazysif.tree.tree import Tree

BASE = "http://origin/"
QUICK = RemotePolicy(revalidate_s=60.0, negative_s=5.0, probe_bytes=4096, lookup_budget_s=5.0, stall_s=0.05)


@dataclass(slots=True)
class World:
    tree: Tree
    images: OpenImages
    cache: BlockCache
    state: StateStore
    counters: Counters
    remotes: Mapping[str, Remote]
    nursery: trio.Nursery

    async def number(self, path: str) -> InodeNumber:
        """Walk a path as the kernel does."""
        number = ROOT_INODE
        for name in path.split("/"):
            number = (await self.tree.lookup(number, name.encode())).number
        return number

    async def open(self, path: str) -> InodeNumber:
        number = await self.number(path)
        await self.tree.files.open(number)
        return number

    async def read(self, number: InodeNumber, offset: int, size: int) -> bytes:
        """As `fuse.operations` reads."""
        data = self.tree.files.read_now(number, offset, size)
        return bytes(data if data is not None else await self.tree.files.read(number, offset, size))


def make_remote(
    name: str,
    transport: Transport,
    nursery: trio.Nursery,
    flights: FlightTable,
    counters: Counters,
    policy: RemotePolicy = QUICK,
    limits: FetchLimits | None = None,
) -> Remote:
    contact = Contact(name)
    transport = WatchedTransport(transport, contact)
    registry = HttpRegistry(BASE, transport, "auto" if policy.listing else "off")
    fetcher = Fetcher(
        nursery,
        transport,
        flights,
        limits or FetchLimits(stall_s=0.05),
        counters,
        Locations(registry, counters),
        contact,
    )
    return Remote(name, registry, transport, fetcher, policy, counters)


@asynccontextmanager
async def world(
    directory: Path,
    transport: Transport,
    *,
    names: tuple[str, ...] = ("",),
    block_size: int = 4096,
    policy: RemotePolicy = QUICK,
    limits: FetchLimits | None = None,
    cache: Mapping[str, Any] | None = None,
    starts: Mapping[str, Any] | None = None,
    asked: Asked | None = None,
    pages: PagesAhead | None = None,
    **timeouts: Any,
) -> AsyncIterator[World]:
    """One life of a daemon; entered again on the same directory it is the next life.

    Args:
        starts: arguments for `Starts`, which records and follows; None: it does not.
    """
    counters = Counters()
    for part in ("cache", "state"):
        (directory / part).mkdir(mode=0o700, exist_ok=True)
    settings: dict[str, Any] = {
        "limit_bytes": 2**30,
        "tick_s": 0.02,
        "gather_s": 0.0,
        "first_pause_s": 0.02,
        "longest_pause_s": 0.1,
        **(cache or {}),
    }
    blocks = BlockCache(CacheSettings(directory / "cache", **settings), counters)
    state = StateStore(directory / "state")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(blocks.run)
            flights = FlightTable()
            remotes = {
                name: make_remote(name, transport, nursery, flights, counters, policy, limits)
                for name in names
            }
            recorder = None
            if starts is not None:
                recorder = Starts(nursery, TraceStore(directory / "state"), block_size, counters, **starts)
            images = OpenImages(nursery, remotes.__getitem__, blocks, block_size, counters, recorder)
            tree = Tree(nursery, remotes, images, state, counters, asked=asked, pages=pages, **timeouts)
            try:
                yield World(tree, images, blocks, state, counters, remotes, nursery)
            finally:
                with trio.CancelScope(shield=True):
                    if recorder is not None:
                        await recorder.aclose()
                    await blocks.aclose()
                nursery.cancel_scope.cancel()
    finally:
        state.close()


@contextmanager
def quiet_log() -> Iterator[None]:
    """For tests that bring about thousands of failures on purpose."""
    logger = logging.getLogger("lazysif")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
