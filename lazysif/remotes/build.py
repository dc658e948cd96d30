"""One remote as a daemon uses it: joined from what its configuration stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lazysif.config.kinds import HttpRemote
from lazysif.config.remote import RemoteConfig
from lazysif.config.tables import Config, LimitsConfig
from lazysif.core.names import host_and_port, origin_of
from lazysif.fetch.contact import Contact, WatchedTransport
from lazysif.fetch.fetcher import Fetcher, FetchLimits
from lazysif.fetch.flights import FlightTable
from lazysif.fetch.locations import Locations
from lazysif.fetch.policy import RemotePolicy
from lazysif.fetch.remote import Remote
from lazysif.fetch.routes import Routes
from lazysif.model import Transport
from lazysif.remotes.source import Source
from lazysif.remotes.sources import source_of
from lazysif.remotes.transports import make_transport, routes_of
from lazysif.telemetry import Counters

if TYPE_CHECKING:
    from lazysif.transport.curl_engine import CurlEngine


@dataclass(frozen=True, slots=True)
class BuiltRemote:
    """Args:
    transport: what sends its requests, watched.
    routes: its ways, where it has several or proxies.
    """

    remote: Remote
    transport: Transport
    routes: Routes | None


class RemoteBuilder:
    """Builds the remotes of one daemon.

    Args:
        nursery: of the daemon; the watches of the remotes run in it, and their fetches.
        engine: what brings the bytes of images; None leaves them to httpx.
    """

    def __init__(
        self, config: Config, nursery: trio.Nursery, counters: Counters, engine: CurlEngine | None
    ) -> None:
        self._limits = config.limits
        self._block_size = config.cache.block_size
        self._nursery = nursery
        self._counters = counters
        self._engine = engine
        self._flights = FlightTable()

    def build(self, remote: RemoteConfig) -> BuiltRemote:
        """Raises: ConfigError: a secret's file cannot be used (any more)."""
        contact = Contact(remote.name)
        source = source_of(remote)
        # probes and listings have no lane: they must not wait behind the flow of data
        connections = self._limits.connections + 8
        routes = routes_of(remote, source, connections, self._counters, self._engine)
        sender = make_transport(remote, source, connections, routes, self._engine)
        transport = WatchedTransport(sender, contact)
        registry = source.make_registry(transport)
        self._nursery.start_soon(transport.watch, remote.stall_timeout, name=f"watch of {remote.name}")
        if self._engine is not None and routes is None and isinstance(remote, HttpRemote):
            # autofs makes a mount because a job wants it: its look-up is a round trip shorter
            self._nursery.start_soon(self._engine.expect, *host_and_port(source.base_url))
        fetcher = Fetcher(
            self._nursery,
            transport,
            self._flights,
            _fetch_limits(self._limits, remote, routes),
            self._counters,
            Locations(registry, self._counters),
            contact,
        )
        policy = self._policy(remote, source, routes)
        served = Remote(remote.name, registry, transport, fetcher, policy, self._counters)
        return BuiltRemote(served, transport, routes)

    def _policy(self, remote: RemoteConfig, source: Source, routes: Routes | None) -> RemotePolicy:
        return RemotePolicy(
            revalidate_s=remote.revalidate,
            negative_s=remote.negative,
            spool_whole=remote.whole_file == "spool",
            listing=remote.listing == "auto",
            origin=origin_of(source.base_url) if source.base_url else remote.kind,
            asked_of=remote.mark(source.base_url),
            # a mirror's bytes are not taken from the origin: that one is only asked for the version
            probe_bytes=1 if routes is not None and routes.has_mirrors else self._block_size,
            lookup_budget_s=self._limits.lookup_timeout,
            stall_s=remote.stall_timeout,
            uid=remote.uid,
            gid=remote.gid,
            mode=remote.mode,
        )


def _fetch_limits(limits: LimitsConfig, remote: RemoteConfig, routes: Routes | None) -> FetchLimits:
    return FetchLimits(
        connections=limits.connections,
        background_connections=max(1, limits.connections * 3 // 4),
        read_budget_s=limits.read_timeout,
        stall_s=remote.stall_timeout,
        whole_file_budget_s=remote.whole_file_timeout,
        stripe_bytes=routes.stripe_bytes if routes is not None else 0,
    )
