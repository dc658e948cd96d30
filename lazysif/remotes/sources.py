"""The one place that knows all kinds.

A new kind is a module under `registries/`, a table of keys in `config.kinds`, a function that makes its `Source`,
and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
from lazysif.registries.prefixed import PrefixedRegistry
from lazysif.remotes.image_servers import (
    http_source,
    library_source,
    oras_source,
    shub_source,
    sregistry_source,
    static_source,
    url_source,
)
from lazysif.remotes.object_stores import gcs_source, s3_source, swift_source
from lazysif.remotes.source import Source


def source_of(remote: RemoteConfig) -> Source:
    """Raises: ConfigError: a secret's file cannot be used (any more)."""
    source = _SOURCES[type(remote)](remote)
    if not remote.prefix:
        return source
    whole = source.make_registry
    return replace(source, make_registry=lambda sender: PrefixedRegistry(whole(sender), remote.prefix))


_SOURCES: dict[type[RemoteConfig], Callable[[Any], Source]] = {
    HttpRemote: http_source,
    UrlRemote: url_source,
    OrasRemote: oras_source,
    LibraryRemote: library_source,
    S3Remote: s3_source,
    GcsRemote: gcs_source,
    SwiftRemote: swift_source,
    ShubRemote: shub_source,
    StaticRemote: static_source,
    SregistryRemote: sregistry_source,
}
