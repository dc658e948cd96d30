"""Sources of what serves whole images over HTTP: a directory of files, any URL, and registries.

Kinds `http`, `url`, `oras`, `library`, `shub`, `static` and `sregistry`.

Raises: ConfigError: a secret's file cannot be used (any more).
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from lazysif.config.files import read_secret
from lazysif.config.kinds import (
    HttpRemote,
    LibraryRemote,
    OrasRemote,
    ShubRemote,
    SregistryRemote,
    StaticRemote,
    UrlRemote,
)
from lazysif.core.names import is_named_host
from lazysif.core.oci import api_host, architecture_of
from lazysif.registries.by_url import ByUrlRegistry
from lazysif.registries.http import HttpRegistry
from lazysif.registries.library import LibraryRegistry
from lazysif.registries.oras import OrasRegistry
from lazysif.registries.shub import ShubRegistry
from lazysif.registries.sregistry import SregistryRegistry
from lazysif.registries.static import StaticRegistry
from lazysif.remotes.source import Source
from lazysif.transport.authorities import ClientCertificate
from lazysif.transport.credentials import OriginKeyring, make_auth
from lazysif.transport.library_auth import LibraryKeyring
from lazysif.transport.oci_auth import OciKeyring
from lazysif.transport.oci_credentials import HINT as OCI_HINT
from lazysif.transport.oci_credentials import oci_credentials
from lazysif.transport.sregistry_auth import SregistryAuth


def http_source(remote: HttpRemote) -> Source:
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


def url_source(remote: UrlRemote) -> Source:
    return Source("", lambda _: ByUrlRegistry(remote.hosts), hosts=remote.hosts)


def oras_source(remote: OrasRemote) -> Source:
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


def library_source(remote: LibraryRemote) -> Source:
    keyring = LibraryKeyring(remote.url, read_secret(remote.token_file) if remote.token_file else None)
    return Source(
        remote.url,
        lambda transport: LibraryRegistry(
            remote.url,
            transport,
            keyring,
            architecture=architecture_of(os.uname().machine),
            listing=remote.listing != "off",
        ),
        keyring,
    )


def shub_source(remote: ShubRemote) -> Source:
    return Source(remote.url, lambda transport: ShubRegistry(remote.url, transport))


def static_source(remote: StaticRemote) -> Source:
    return Source(remote.url, lambda transport: StaticRegistry(remote.url, transport))


def sregistry_source(remote: SregistryRemote) -> Source:
    auth = None
    if remote.token_file is not None:
        path = urlsplit(remote.url).path
        auth = SregistryAuth(path, read_secret(remote.token_file), remote.username or "")
    return Source(
        remote.url,
        lambda transport: SregistryRegistry(remote.url, transport),
        OriginKeyring(remote.url, auth),
    )
