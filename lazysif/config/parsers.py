"""Which parser checks which key of which table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lazysif.config import files, routes, urls, values
from lazysif.config.base import Table
from lazysif.config.kinds import KINDS, GcsRemote, OrasRemote, S3Remote, SwiftRemote
from lazysif.config.remote import RemoteConfig
from lazysif.config.tables import CacheConfig, FillConfig, LogConfig, MountConfig, StateConfig, TracesConfig

Parser = Callable[[object], object]

_COMMON_PARSERS: dict[str, Parser] = {
    "url": urls.url,
    "hosts": urls.hosts,
    "prefix": values.prefix,
    "ca_file": files.readable_file,
    "proxies": routes.proxies,
    "proxy_username": values.username,
    "proxy_password_file": files.secret_file,
    "mirrors": routes.mirrors,
    "client_cert_file": files.readable_file,
    "client_key_file": files.secret_file,
    "username": values.username,
    "password_file": files.secret_file,
    "token_file": files.secret_file,
    "owner": values.owner,
    "group": values.group,
    "mode": values.mode,
}
# A kind's own come before those of all kinds.
_KIND_PARSERS: dict[type[RemoteConfig], dict[str, Parser]] = {
    S3Remote: {
        "url": urls.s3_url,
        "endpoint": urls.endpoint,
        "region": values.region,
        "credentials_file": files.secret_file,
    },
    GcsRemote: {
        "url": urls.gs_url,
        "endpoint": urls.endpoint,
        "credentials_file": files.secret_file,
    },
    OrasRemote: {
        "url": urls.oras_url,
        "hosts": urls.optional_hosts,
        "auth_file": files.secret_file,
        "credential_helper": files.program,
    },
    SwiftRemote: {
        "url": urls.swift_url,
        "storage_url": urls.optional_url,
        "auth_url": urls.optional_url,
        "username": values.line,
        "application_credential_secret_file": files.secret_file,
    },
}
# Keys that are more than a number or one of a few words; all others are checked by their annotation.
PARSERS: dict[type[Table], dict[str, Parser]] = {
    CacheConfig: {
        "dir": files.path,
        "size": values.cache_size,
        "min_free": values.share_or_size,
        "block_size": values.block_size,
        "memory": values.size,
    },
    StateConfig: {"dir": files.path},
    LogConfig: {"file": files.optional_path},
    MountConfig: {"options": values.mount_options},
    TracesConfig: {
        "dir": files.optional_path,
        "url": urls.optional_url,
        "ca_file": files.readable_file,
        "username": values.username,
        "password_file": files.secret_file,
        "token_file": files.secret_file,
    },
    FillConfig: {"rate": values.rate},
    **{kind: {**_COMMON_PARSERS, **_KIND_PARSERS.get(kind, {})} for kind in KINDS.values()},
}


def secret_files(table: Table) -> list[Path]:
    """The files that the secrets of a remote, or of [traces], are in."""
    keys = [key for key, parse in PARSERS[type(table)].items() if parse is files.secret_file]
    return [file for key in keys if (file := getattr(table, key, None)) is not None]
