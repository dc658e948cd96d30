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
from lazysif.model import Registry, Transport
from lazysif.registries.by_url import ByUrlRegistry
from lazysif.registries.http import HttpRegistry
from lazysif.registries.oras import OrasRegistry
from lazysif.registries.prefixed import PrefixedRegistry
from lazysif.transport.credentials import Keyring, OriginKeyring, make_auth
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.oci_auth import OciKeyring
from lazysif.transport.oci_credentials import HINT as OCI_HINT
from lazysif.transport.oci_credentials import oci_credentials


@dataclass(frozen=True, slots=True)
class Source:
    """How to reach a remote.

    Args:
        base_url: its own address, for the guard against redirects inward; "" where it has none.
        keyring: which credentials go where.
        make_registry: given what sends its requests.
        hosts: where not None, no others are asked, by redirect neither.
        around: what the kind puts around its transport, where answers mean more than HTTP says.
    """

    base_url: str
    make_registry: Callable[[Transport], Registry]
    keyring: Keyring | None = field(default=None, repr=False)
    hosts: Sequence[str] | None = None
    around: Callable[[Transport], Transport] | None = None


def source_of(remote: RemoteConfig) -> Source:
    """Raises: ConfigError: a secret's file cannot be used (any more)."""
    source = _SOURCES[type(remote)](remote)
    if not remote.prefix:
        return source
    whole = source.make_registry
    return replace(source, make_registry=lambda sender: PrefixedRegistry(whole(sender), remote.prefix))


def make_transport(remote: RemoteConfig, source: Source, connections: int) -> Transport:
    """What sends the requests of a remote."""
    transport = HttpxTransport(
        source.base_url,
        keyring=source.keyring,
        hosts=source.hosts,
        ca_file=str(remote.ca_file) if remote.ca_file else None,
        connections=connections,
    )
    return source.around(transport) if source.around is not None else transport


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
