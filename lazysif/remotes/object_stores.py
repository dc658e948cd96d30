"""Sources of object stores: buckets of kinds `s3` and `gcs`, containers of kind `swift`.

Raises: ConfigError: a secret's file cannot be used (any more), an address cannot be, or a package is missing.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from lazysif.config.files import read_secret
from lazysif.config.kinds import GcsRemote, S3Remote, SwiftRemote
from lazysif.config.remote import RemoteConfig
from lazysif.core.gcs import error_for_people as gcs_error_for_people
from lazysif.core.gcs import gcs_bucket
from lazysif.core.names import origin_of
from lazysif.core.s3_bucket import Region, bucket_address
from lazysif.errors import ConfigError, LazysifError
from lazysif.model import AnswerHead, Transport
from lazysif.registries.gcs import GcsStore
from lazysif.registries.object_store import ObjectRegistry
from lazysif.registries.s3 import S3Store
from lazysif.registries.swift import SwiftAccount, SwiftRegistry
from lazysif.remotes.source import Source
from lazysif.remotes.ways import first_proxy
from lazysif.transport.credentials import OriginKeyring
from lazysif.transport.google_auth import GoogleAuth, GoogleTokens, check_credentials_file
from lazysif.transport.read_answer import ExplainedTransport
from lazysif.transport.renewable import Renewable
from lazysif.transport.s3_auth import AwsChain, S3Auth, S3Keyring
from lazysif.transport.s3_transport import S3Transport
from lazysif.transport.swift_auth import SWIFT_KEYS, SwiftAuth, SwiftKeyring, from_environment, login_of


def s3_source(remote: S3Remote) -> Source:
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


def gcs_source(remote: GcsRemote) -> Source:
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


def swift_source(remote: SwiftRemote) -> Source:
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
