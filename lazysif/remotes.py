"""What a remote's configuration stands for: its registry, its transport and its credentials, by kind.

The one place that knows all kinds. A new kind is a module under `registries/`, a table of keys in
`config.kinds`, and a function here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lazysif.config.files import read_secret
from lazysif.config.kinds import (
    GcsRemote,
    HttpRemote,
    LibraryRemote,
    OrasRemote,
    S3Remote,
    ShubRemote,
    SregistryRemote,
    StaticRemote,
    SwiftRemote,
    UrlRemote,
)
from lazysif.config.remote import RemoteConfig
from lazysif.core.gcs import error_for_people as gcs_error_for_people
from lazysif.core.gcs import gcs_bucket
from lazysif.core.names import is_named_host, origin_of
from lazysif.core.oci import api_host, architecture_of
from lazysif.core.s3_bucket import Region, bucket_address
from lazysif.errors import ConfigError, LazysifError
from lazysif.fetch.routes import Routes
from lazysif.model import AnswerHead, Registry, Transport
from lazysif.registries.by_url import ByUrlRegistry
from lazysif.registries.gcs import GcsStore
from lazysif.registries.http import HttpRegistry
from lazysif.registries.library import LibraryRegistry
from lazysif.registries.object_store import ObjectRegistry
from lazysif.registries.oras import OrasRegistry
from lazysif.registries.prefixed import PrefixedRegistry
from lazysif.registries.s3 import S3Store
from lazysif.registries.shub import ShubRegistry
from lazysif.registries.sregistry import SregistryRegistry
from lazysif.registries.static import StaticRegistry
from lazysif.registries.swift import SwiftAccount, SwiftRegistry
from lazysif.remote_ways import first_proxy, has_ways, make_routes
from lazysif.telemetry import Counters
from lazysif.transport.authorities import ClientCertificate
from lazysif.transport.credentials import Keyring, OriginKeyring, make_auth
from lazysif.transport.google_auth import GoogleAuth, GoogleTokens, check_credentials_file
from lazysif.transport.httpx_transport import HttpxTransport
from lazysif.transport.library_auth import LibraryKeyring
from lazysif.transport.oci_auth import OciKeyring
from lazysif.transport.oci_credentials import HINT as OCI_HINT
from lazysif.transport.oci_credentials import oci_credentials
from lazysif.transport.proxy import Proxy
from lazysif.transport.read_answer import ExplainedTransport
from lazysif.transport.renewable import Renewable
from lazysif.transport.s3_auth import AwsChain, S3Auth, S3Keyring
from lazysif.transport.s3_transport import S3Transport
from lazysif.transport.split import SplitTransport
from lazysif.transport.sregistry_auth import SregistryAuth
from lazysif.transport.swift_auth import SWIFT_KEYS, SwiftAuth, SwiftKeyring, from_environment, login_of

if TYPE_CHECKING:
    from lazysif.transport.curl_engine import CurlEngine


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


def _s3(remote: S3Remote) -> Source:
    try:
        address = bucket_address(
            remote.url, endpoint=remote.endpoint, region=remote.region, addressing=remote.addressing
        )
    except ValueError as error:
        raise ConfigError(f"remote {remote.name}: {error}") from None
    region = Region(address)
    keys = None
    if not remote.anonymous:
        _need_package("botocore", remote)
        file = str(remote.credentials_file) if remote.credentials_file else ""
        keys = Renewable(AwsChain(remote.profile, file), "AWS credentials")
    return Source(
        origin_of(address.listing_url("", "", 1)),
        lambda sender: ObjectRegistry(S3Store(address), sender, listing=remote.listing == "auto"),
        S3Keyring(address, S3Auth(region, keys, requester_pays=remote.requester_pays)) if keys else None,
        around=lambda inner: S3Transport(inner, address, region, keys),
    )


def _need_package(module: str, remote: RemoteConfig) -> None:
    """Raises: ConfigError: what knows this kind's credentials is not installed."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ConfigError(
            f"remote {remote.name}: credentials of kind {remote.kind} need a package that is not installed",
            hint=f"pip install 'lazysif[{remote.kind}]', or write anonymous = true",
        )


def _gcs(remote: GcsRemote) -> Source:
    try:
        bucket = gcs_bucket(remote.url, remote.endpoint)
    except ValueError as error:
        raise ConfigError(f"remote {remote.name}: {error}") from None
    auth = None
    if not remote.anonymous:
        _need_package("google.auth", remote)
        if remote.credentials_file is not None:
            check_credentials_file(remote.credentials_file)
        ca_file = str(remote.ca_file) if remote.ca_file else None
        source = GoogleTokens(remote.credentials_file, ca_file, first_proxy(remote))
        tokens = Renewable(source, "a token of Google's")
        auth = GoogleAuth(tokens, remote.billing_project)

    def explain(head: AnswerHead, body: bytes) -> LazysifError | None:
        return gcs_error_for_people(head, body, anonymous=remote.anonymous)

    return Source(
        bucket.endpoint,
        lambda sender: ObjectRegistry(GcsStore(bucket), sender, listing=remote.listing == "auto"),
        OriginKeyring(bucket.endpoint, auth),
        around=lambda inner: ExplainedTransport(inner, explain),
    )


def _shub(remote: ShubRemote) -> Source:
    return Source(remote.url, lambda transport: ShubRegistry(remote.url, transport))


def _static(remote: StaticRemote) -> Source:
    return Source(remote.url, lambda transport: StaticRegistry(remote.url, transport))


def _sregistry(remote: SregistryRemote) -> Source:
    auth = None
    if remote.token_file is not None:
        path = urlsplit(remote.url).path
        auth = SregistryAuth(path, read_secret(remote.token_file), remote.username or "")
    return Source(
        remote.url,
        lambda transport: SregistryRegistry(remote.url, transport),
        OriginKeyring(remote.url, auth),
    )


def _swift(remote: SwiftRemote) -> Source:
    keys = _swift_keys(remote)
    login = login_of(keys)
    auth = SwiftAuth(login, keys.get("token", "")) if login or "token" in keys else None
    keyring = SwiftKeyring(auth, login.url if login else "", keys.get("storage_url", ""))
    container, prefix = remote.container_and_prefix

    def registry(transport: Transport) -> SwiftRegistry:
        account = SwiftAccount(
            storage_url=keys.get("storage_url", ""),
            login_url=login.url if login else "",
            region=keys.get("region", ""),
            interface=keys.get("interface", "public"),
            opened=keyring.opened,
        )
        return SwiftRegistry(account, transport, container, prefix)

    return Source(keys.get("storage_url") or keys.get("auth_url", ""), registry, keyring)


def _swift_keys(remote: SwiftRemote) -> dict[str, str]:
    """The keys of the table with their secrets; those of the environment where it names no server.

    Raises: ConfigError: neither names one.
    """
    given = ((name, getattr(remote, name, None)) for name in SWIFT_KEYS)
    keys = {name: value for name, value in given if isinstance(value, str) and value}
    for name in ("password", "token", "application_credential_secret"):
        file = getattr(remote, f"{name}_file")
        if file is not None:
            keys[name] = read_secret(file)
    if remote.storage_url or remote.auth_url:
        return keys
    found = from_environment(os.environ)
    if not found:
        raise ConfigError(
            f"remote.{remote.name}: neither storage_url nor auth_url is given, and the environment has no login",
            hint="set them, or OS_AUTH_URL and its companions in the daemon's environment",
        )
    # what the table says of region and interface goes before the environment
    return {**found, **{key: keys[key] for key in ("region",) if key in keys}}


def _library(remote: LibraryRemote) -> Source:
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


_SOURCES: dict[type[RemoteConfig], Callable[[Any], Source]] = {
    HttpRemote: _http,
    UrlRemote: _url,
    OrasRemote: _oras,
    LibraryRemote: _library,
    S3Remote: _s3,
    GcsRemote: _gcs,
    SwiftRemote: _swift,
    ShubRemote: _shub,
    StaticRemote: _static,
    SregistryRemote: _sregistry,
}
