"""What sends the requests of a remote: by httpx and libcurl, straight or by mirrors and proxies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lazysif.config.remote import RemoteConfig
from lazysif.fetch.routes import Routes
from lazysif.model import Transport
from lazysif.remotes.source import Source
from lazysif.remotes.ways import has_ways, make_routes
from lazysif.telemetry import Counters
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.proxy import Proxy
from lazysif.transport.split import SplitTransport

if TYPE_CHECKING:
    from lazysif.transport.curl_engine import CurlEngine


def make_transport(
    remote: RemoteConfig,
    source: Source,
    connections: int,
    routes: Routes | None = None,
    engine: CurlEngine | None = None,
) -> Transport:
    """What sends the requests of a remote, by the one way there is or by `routes`.

    Args: engine: what brings the bytes of images; None leaves them to httpx.

    Raises: ConfigError: a secret's file cannot be used (any more).
    """
    transport: Transport = routes or _straight(remote, source, connections, engine=engine)
    return source.around(transport) if source.around is not None else transport


def routes_of(
    remote: RemoteConfig,
    source: Source,
    connections: int,
    counters: Counters,
    engine: CurlEngine | None = None,
) -> Routes | None:
    """The ways to a remote that has several, or proxies. Raises: as `make_transport`."""
    if not has_ways(remote):
        return None

    def make(mirror: str | None, proxy: Proxy | None) -> Transport:
        if mirror is None:
            return _straight(remote, source, connections, proxy, engine)
        # a mirror is another origin: it gets none of the remote's credentials
        there = replace(source, base_url=mirror, certificate=None)
        return _straight(remote, there, connections, proxy, engine)

    return make_routes(remote, source.base_url, make, counters)


def _straight(
    remote: RemoteConfig,
    source: Source,
    connections: int,
    proxy: Proxy | None = None,
    engine: CurlEngine | None = None,
) -> Transport:
    given: dict[str, Any] = {
        "keyring": source.keyring,
        "hosts": source.hosts,
        "ca_file": str(remote.ca_file) if remote.ca_file else None,
        "connections": connections,
        "proxy": proxy,
        "client_certificate": source.certificate,
    }
    control = HttpxTransport(source.base_url, **given)
    if engine is None:
        return control
    from lazysif.transport.curl_transport import CurlTransport

    data = CurlTransport(source.base_url, engine, token_client=control, redirects=control.redirects, **given)
    return SplitTransport(control, data)
