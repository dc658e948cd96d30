"""The ways to a remote's bytes, as its mirrors and proxies are configured."""

from __future__ import annotations

from collections.abc import Callable

from lazysif.config.files import read_secret
from lazysif.config.remote import RemoteConfig
from lazysif.config.routes import DIRECT, OWN, Groups
from lazysif.core.names import origin_of
from lazysif.fetch.routes import Routes
from lazysif.fetch.way import Way
from lazysif.model import Transport
from lazysif.telemetry import Counters
from lazysif.transport.proxy import Proxy

MakeTransport = Callable[[str | None, Proxy | None], Transport]
"""A transport to a mirror's base URL (None: the remote's own), through a proxy (None: direct)."""


def has_ways(remote: RemoteConfig) -> bool:
    """Whether anything but the straight way is configured."""
    return bool(remote.proxies or getattr(remote, "mirrors", ()))


def first_proxy(remote: RemoteConfig) -> Proxy | None:
    """What is asked for credentials where these have a host of their own; None is directly.

    Raises: ConfigError: as `make_routes`.
    """
    by = next((by for group in remote.proxies for by in group), DIRECT)
    return None if by == DIRECT else Proxy(by, remote.proxy_username, _proxy_password(remote))


def _proxy_password(remote: RemoteConfig) -> str:
    return read_secret(remote.proxy_password_file) if remote.proxy_password_file else ""


def make_routes(remote: RemoteConfig, base_url: str, make: MakeTransport, counters: Counters) -> Routes:
    """Each mirror by each proxy. Mirrors come before proxies: the second mirror is asked after all proxies failed.

    Raises: ConfigError: the file of the proxies' password cannot be used (any more).
    """
    mirrors: Groups = getattr(remote, "mirrors", ())
    if not any(OWN in group for group in mirrors):
        mirrors = (*mirrors, (OWN,))
    proxies = remote.proxies or ((DIRECT,),)
    password = _proxy_password(remote)

    def way(mirror: str, by: str) -> Way:
        proxy = None if by == DIRECT else Proxy(by, remote.proxy_username, password)
        base = None if mirror == OWN else mirror
        target = [origin_of(base or base_url)] if len(mirrors) > 1 or len(mirrors[0]) > 1 else []
        name = " by ".join([*target, *([by] if remote.proxies else [])])
        return Way(name, make(base, proxy), base, proxy is not None)

    groups = [
        [way(mirror, by) for mirror in equal_mirrors for by in equal_proxies]
        for equal_mirrors in mirrors
        for equal_proxies in proxies
    ]
    return Routes(base_url, groups, counters, pieces=remote.spread == "pieces")
