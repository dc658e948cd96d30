"""What a remote's configuration stands for: its registry, its transport and its credentials, by kind.

The one place that knows all kinds. A new kind is a module under `registries/`, a table of keys in
`config_remotes`, and a function here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lazysif.config_remotes import HttpRemote, OrasRemote, RemoteConfig, UrlRemote
from lazysif.config_values import read_secret
from lazysif.core.names import is_named_host
from lazysif.core.oci import api_host, architecture_of
from lazysif.fetch.routes import Routes
from lazysif.model import Registry, Transport
from lazysif.registries.by_url import ByUrlRegistry
from lazysif.registries.http import HttpRegistry
from lazysif.registries.oras import OrasRegistry
from lazysif.registries.prefixed import PrefixedRegistry
from lazysif.remote_ways import has_ways, make_routes
from lazysif.telemetry import Counters
from lazysif.transport.authorities import ClientCertificate
from lazysif.transport.credentials import Keyring, OriginKeyring, make_auth
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.oci_auth import OciKeyring
from lazysif.transport.oci_credentials import HINT as OCI_HINT
from lazysif.transport.oci_credentials import oci_credentials
from lazysif.transport.proxy import Proxy


@dataclass(frozen=True, slots=True)
class Source:
    """How to reach a remote.

    Args:
        base_url: its own address, for the guard against redirects inward; "" where it has none.
        keyring: which credentials go where.
        make_registry: given what sends its requests.
        hosts: where not None, no others are asked, by redirect neither.
        around: what the kind puts around its transport, where answers mean more than HTTP says.
        certificate: what the host of `base_url` may know this node by.
    """

    base_url: str
    make_registry: Callable[[Transport], Registry]
    keyring: Keyring | None = field(default=None, repr=False)
    hosts: Sequence[str] | None = None
    around: Callable[[Transport], Transport] | None = None
    certificate: ClientCertificate | None = None


def source_of(remote: RemoteConfig) -> Source:
    """Raises: ConfigError: a secret's file cannot be used (any more)."""
    source = _SOURCES[type(remote)](remote)
    if not remote.prefix:
        return source
    whole = source.make_registry
    return replace(source, make_registry=lambda sender: PrefixedRegistry(whole(sender), remote.prefix))


def make_transport(
    remote: RemoteConfig, source: Source, connections: int, routes: Routes | None = None
) -> Transport:
    """What sends the requests of a remote, by the one way there is or by `routes`.

    Raises: ConfigError: a secret's file cannot be used (any more).
    """
    transport: Transport = routes or _straight(remote, source, connections)
    return source.around(transport) if source.around is not None else transport


def routes_of(remote: RemoteConfig, source: Source, connections: int, counters: Counters) -> Routes | None:
    """The ways to a remote that has several, or proxies. Raises: as `make_transport`."""
    if not has_ways(remote):
        return None

    def make(mirror: str | None, proxy: Proxy | None) -> Transport:
        if mirror is None:
            return _straight(remote, source, connections, proxy)
        # a mirror is another origin: it gets none of the remote's credentials
        return _straight(remote, replace(source, base_url=mirror, certificate=None), connections, proxy)

    return make_routes(remote, source.base_url, make, counters)


def _straight(
    remote: RemoteConfig, source: Source, connections: int, proxy: Proxy | None = None
) -> HttpxTransport:
    return HttpxTransport(
        source.base_url,
        keyring=source.keyring,
        hosts=source.hosts,
        ca_file=str(remote.ca_file) if remote.ca_file else None,
        connections=connections,
        proxy=proxy,
        client_certificate=source.certificate,
    )


def _http(remote: HttpRemote) -> Source:
    auth = make_auth(
        username=remote.username,
        password=read_secret(remote.password_file) if remote.password_file else "",
        token=read_secret(remote.token_file) if remote.token_file else None,
    )
    return Source(
        remote.url,
        lambda transport: HttpRegistry(remote.url, transport, remote.listing),
        OriginKeyring(remote.url, auth),
        certificate=ClientCertificate(str(remote.client_cert_file), str(remote.client_key_file))
        if remote.client_cert_file
        else None,
    )


def _url(remote: UrlRemote) -> Source:
    return Source("", lambda _: ByUrlRegistry(remote.hosts), hosts=remote.hosts)


def _oras(remote: OrasRemote) -> Source:
    given = (remote.below.partition("/")[0],) if remote.below else remote.hosts
    hosts = tuple(dict.fromkeys([*given, *map(api_host, given)]))
    credentials = oci_credentials(
        username=remote.username,
        password_file=remote.password_file,
        auth_file=remote.auth_file,
        helper=remote.credential_helper,
    )
    scheme = "http" if remote.plain_http else "https"
    alone = len(given) == 1 and "*" not in given[0]

    def serves(host: str) -> bool:
        return is_named_host(host, hosts)

    return Source(
        f"{scheme}://{api_host(given[0])}/" if alone else "",
        lambda transport: OrasRegistry(
            transport,
            serves,
            architecture=architecture_of(os.uname().machine),
            below=remote.below,
            shown_hosts=tuple(host for host in remote.hosts if "*" not in host),
            plain_http=remote.plain_http,
            hint=OCI_HINT,
        ),
        OciKeyring(credentials, serves, plain_http=remote.plain_http),
    )


_SOURCES: dict[type[RemoteConfig], Callable[[Any], Source]] = {
    HttpRemote: _http,
    UrlRemote: _url,
    OrasRemote: _oras,
}
