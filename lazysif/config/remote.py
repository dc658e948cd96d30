"""[remote.NAME]: the keys that all kinds of remotes have."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from lazysif.config import routes, values
from lazysif.config.base import Span, SpanOrNone, Table
from lazysif.image_uri import ImageUri


class RemoteConfig(Table, frozen=True, kw_only=True):
    """[remote.NAME]: one top-level directory, the keys that all kinds have; spans in seconds.

    `name` is "" in source mode.
    """

    name: str = ""
    kind: str
    url: str = ""
    prefix: str = ""
    revalidate: SpanOrNone = 60.0
    negative: SpanOrNone = 5.0
    listing: Literal["auto", "off"] = "auto"
    whole_file: Literal["spool", "refuse"] = "spool"
    ca_file: Path | None = None
    proxies: routes.Groups = ()
    spread: Literal["pieces", "images"] = "pieces"
    proxy_username: str | None = None
    proxy_password_file: Path | None = None
    owner: str = msgspec.field(default_factory=lambda: str(os.geteuid()))
    group: str = msgspec.field(default_factory=lambda: str(os.getegid()))
    mode: int = 0o555
    stall_timeout: Span = 20.0
    whole_file_timeout: Span = 600.0

    @property
    def uid(self) -> int:
        return values.uid_of(self.owner)

    @property
    def gid(self) -> int:
        return values.gid_of(self.group)

    @property
    def directory_mode(self) -> int:
        """`mode` with x where r is set; files have no more than `mode`."""
        return values.directory_mode(self.mode)

    @property
    def shown_url(self) -> str:
        """The URL for people: a query may be a signature."""
        return self.url.partition("?")[0]

    def path_of(self, uri: ImageUri) -> str | None:
        """The path below this remote of what a URI names; None where it is not this remote's to serve."""
        return None

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """A remote without credentials that serves this URI; None where its scheme is not this kind's."""
        return None

    def mark(self, base_url: str) -> str:
        """A mark of where names lead: another one may lead the same name to something else.

        Of all keys that are given, as nobody would keep a list of those that matter; one that a later release brings
        changes no mark by its default. Of secrets it has their files' names.

        Args: base_url: where the remote leads in the end; some take that from the environment.
        """
        keys = msgspec.structs.fields(type(self))
        given = [(key.name, getattr(self, key.name)) for key in keys if key.name != "name"]
        defaults = {key.name: _default(key) for key in keys}
        text = repr([base_url, *sorted((name, str(v)) for name, v in given if v != defaults[name])])
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, kind={self.kind!r}, url={self.shown_url!r})"


def _default(key: msgspec.structs.FieldInfo) -> object:
    if key.default_factory is not msgspec.NODEFAULT:
        return key.default_factory()
    return key.default
