"""[remote.NAME]: the keys of each kind of remote, and what single values of them may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from lazysif import config_routes as routes
from lazysif import config_values as values
from lazysif.image_uri import ImageUri

# A year: longer is a slip of the pen, and `inf` breaks JSON in `status`.
Span = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
SpanOrNone = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; the fields are its keys."""


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

    def secret_files(self) -> list[Path]:
        """The files that its secrets are in."""
        keys = [key for key, parse in PARSERS[type(self)].items() if parse is values.secret_file]
        return [file for key in keys if (file := getattr(self, key, None)) is not None]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, kind={self.kind!r}, url={self.shown_url!r})"


def _default(key: msgspec.structs.FieldInfo) -> object:
    if key.default_factory is not msgspec.NODEFAULT:
        return key.default_factory()
    return key.default


class HttpRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "http": a plain web server."""

    kind: Literal["http"]
    url: str
    username: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    mirrors: routes.Groups = ()

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`. A URI with a signature of its own gets no other's credentials."""
        base, _, query = self.url.partition("?")
        base = base.rstrip("/") + "/"
        if uri.query != query or not uri.shown.startswith(base):
            return None
        return unquote(uri.shown[len(base) :]) or None

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """See `RemoteConfig.for_uri`."""
        if uri.scheme not in ("http", "https"):
            return None
        path, mark, query = uri.text.partition("?")
        directory = path.rpartition("/")[0]
        return cls(name=name, kind="http", url=directory + "/" + mark + query, listing="off")


class UrlRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "url": any image by its URL, of the hosts that are named."""

    kind: Literal["url"]
    hosts: tuple[str, ...]

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        host = uri.rest.partition("/")[0]
        named = uri.scheme == "https" and not uri.query and host in self.hosts
        return unquote(uri.rest) if named else None


class OrasRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "oras": SIF files in OCI registries, those of `hosts` or the one of `url`."""

    kind: Literal["oras"]
    hosts: tuple[str, ...] = ()
    username: str | None = None
    password_file: Path | None = None
    auth_file: Path | None = None
    credential_helper: str | None = None
    plain_http: bool = False

    @property
    def below(self) -> str:
        """`host` or `host/path` of `url`; "" where `hosts` says what may be asked."""
        return self.url.removeprefix("oras://")

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        if uri.scheme != "oras" or uri.query:
            return None
        host, _, name = uri.rest.partition("/")
        marked = {":", "@"} & set(name.rpartition("/")[2])
        path = f"{host}/{name}" if marked else f"{host}/{name}:latest"
        if self.below:
            return path.removeprefix(f"{self.below}/") if path.startswith(f"{self.below}/") else None
        named = any(fnmatchcase(host.lower(), known.lower()) for known in self.hosts)
        return path if named else None

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """See `RemoteConfig.for_uri`."""
        if uri.scheme != "oras":
            return None
        return cls(name=name, kind="oras", hosts=(uri.rest.partition("/")[0],))


class S3Remote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "s3": a bucket, or a part of one."""

    kind: Literal["s3"]
    url: str
    endpoint: str = ""
    region: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    anonymous: bool = False
    profile: str = ""
    credentials_file: Path | None = None
    requester_pays: bool = False

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        return _key_below(self.url, uri, "s3")

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """See `RemoteConfig.for_uri`."""
        if uri.scheme != "s3":
            return None
        bucket = uri.rest.partition("/")[0]
        return cls(name=name, kind="s3", url=f"s3://{bucket}", anonymous=True, listing="off")


class GcsRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "gcs": a bucket of Google Cloud Storage, or a part of one."""

    kind: Literal["gcs"]
    url: str
    endpoint: str = ""
    anonymous: bool = False
    credentials_file: Path | None = None
    billing_project: str = ""

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        return _key_below(self.url, uri, "gs")

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """See `RemoteConfig.for_uri`."""
        if uri.scheme != "gs":
            return None
        bucket = uri.rest.partition("/")[0]
        return cls(name=name, kind="gcs", url=f"gs://{bucket}", anonymous=True, listing="off")


def _key_below(url: str, uri: ImageUri, scheme: str) -> str | None:
    """The rest of an object store's URI behind a remote's own URL; keys are not percent-encoded there."""
    base = url.rstrip("/") + "/"
    if uri.scheme != scheme or not uri.text.startswith(base):
        return None
    return uri.text[len(base) :] or None


class SwiftRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "swift": an account of OpenStack Swift; `url` may name a container and what its names begin with."""

    kind: Literal["swift"]
    storage_url: str = ""
    auth_url: str = ""
    auth_version: Literal["3", "1"] = "3"
    username: str | None = None
    password_file: Path | None = None
    user_domain: str = ""
    user_domain_id: str = ""
    project: str = ""
    project_id: str = ""
    project_domain: str = ""
    project_domain_id: str = ""
    application_credential_id: str = ""
    application_credential_secret_file: Path | None = None
    token_file: Path | None = None
    region: str = ""
    interface: Literal["public", "internal", "admin"] = "public"

    @property
    def container_and_prefix(self) -> tuple[str, str]:
        """Of `url`, "" where it says none."""
        container, _, prefix = self.url.removeprefix("swift://").strip("/").partition("/")
        return container, prefix

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        if uri.scheme != "swift" or uri.query:
            return None
        below = self.url.removeprefix("swift://").strip("/")
        if not below:
            return uri.rest
        return uri.rest.removeprefix(f"{below}/") if uri.rest.startswith(f"{below}/") else None


class ShubRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "shub": Singularity Hub's API, its own server's or another's."""

    kind: Literal["shub"]
    url: str = "https://singularity-hub.org"

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        if uri.scheme != "shub" or uri.query:
            return None
        host, path = _shub_host_and_path(uri)
        own = urlsplit(self.url).netloc
        public = urlsplit(ShubRemote(kind="shub").url).netloc
        return path if own == (host or public) else None

    @classmethod
    def for_uri(cls, uri: ImageUri, name: str) -> RemoteConfig | None:
        """See `RemoteConfig.for_uri`."""
        if uri.scheme != "shub":
            return None
        host, _ = _shub_host_and_path(uri)
        return cls(name=name, kind="shub", url=f"https://{host}") if host else cls(name=name, kind="shub")


def _shub_host_and_path(uri: ImageUri) -> tuple[str, str]:
    """`shub://[host/]user/name[:tag]`, the host "" where it is left out."""
    host = uri.rest.rpartition("/")[0].rpartition("/")[0]
    return host, uri.rest[len(host) + 1 :] if host else uri.rest


class StaticRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "static": a static registry, pages on a web server that name files anywhere."""

    kind: Literal["static"]
    url: str


class SregistryRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "sregistry": a Singularity Registry Server."""

    kind: Literal["sregistry"]
    url: str
    # its views are limited to 50 requests a day and address, as it comes
    revalidate: SpanOrNone = 3600.0
    username: str | None = None
    token_file: Path | None = None


class LibraryRemote(RemoteConfig, frozen=True, kw_only=True):
    """kind = "library": Sylabs' library and its kin; `url` is the library's or an endpoint's."""

    kind: Literal["library"]
    url: str
    token_file: Path | None = None

    def path_of(self, uri: ImageUri) -> str | None:
        """See `RemoteConfig.path_of`."""
        parts = uri.rest.split("/")
        if uri.scheme != "library" or uri.query or len(parts) > 3:
            return None
        return uri.rest if ":" in parts[-1] else f"{uri.rest}:latest"


KINDS: dict[str, type[RemoteConfig]] = {
    "http": HttpRemote,
    "url": UrlRemote,
    "oras": OrasRemote,
    "library": LibraryRemote,
    "s3": S3Remote,
    "gcs": GcsRemote,
    "swift": SwiftRemote,
    "shub": ShubRemote,
    "static": StaticRemote,
    "sregistry": SregistryRemote,
}

# Keys that are more than a number or one of a few words; all others are checked by their annotation. A kind's
# own come before those of all kinds.
_COMMON_PARSERS: dict[str, Callable[[object], object]] = {
    "url": values.url,
    "hosts": values.hosts,
    "prefix": values.prefix,
    "ca_file": values.readable_file,
    "proxies": routes.proxies,
    "proxy_username": values.username,
    "proxy_password_file": values.secret_file,
    "mirrors": routes.mirrors,
    "client_cert_file": values.readable_file,
    "client_key_file": values.secret_file,
    "username": values.username,
    "password_file": values.secret_file,
    "token_file": values.secret_file,
    "owner": values.owner,
    "group": values.group,
    "mode": values.mode,
}
_KIND_PARSERS: dict[type[RemoteConfig], dict[str, Callable[[object], object]]] = {
    S3Remote: {
        "url": values.s3_url,
        "endpoint": values.endpoint,
        "region": values.region,
        "credentials_file": values.secret_file,
    },
    GcsRemote: {
        "url": values.gs_url,
        "endpoint": values.endpoint,
        "credentials_file": values.secret_file,
    },
    OrasRemote: {
        "url": values.oras_url,
        "hosts": values.optional_hosts,
        "auth_file": values.secret_file,
        "credential_helper": values.program,
    },
    SwiftRemote: {
        "url": values.swift_url,
        "storage_url": values.optional_url,
        "auth_url": values.optional_url,
        "username": values.line,
        "application_credential_secret_file": values.secret_file,
    },
}

PARSERS: dict[type[Table], dict[str, Callable[[object], object]]] = {
    kind: {**_COMMON_PARSERS, **_KIND_PARSERS.get(kind, {})} for kind in KINDS.values()
}


def kind_of(given: object) -> type[RemoteConfig]:
    """The table of a kind. Raises: ValueError, with a text for people."""
    if isinstance(given, str) and given in KINDS:
        return KINDS[given]
    known = ", ".join(f'"{kind}"' for kind in KINDS)
    raise ValueError(f"{given!r} is not known{values.near(str(given), KINDS)}: write one of {known}")


def _oras_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    url, hosts = given.get("url"), given.get("hosts")
    if url and hosts:
        yield "hosts", "url names the registry already: leave one of them out"
    elif not url and not hosts:
        yield (
            "hosts",
            'missing: name the registries that may be asked, as in hosts = ["ghcr.io"], or one in url',
        )
    if isinstance(hosts, list | tuple) and (len(hosts) > 1 or any("*" in str(host) for host in hosts)):
        for key in ("username", "plain_http"):
            if given.get(key):
                yield key, "this is for one registry: give that a remote of its own"
    ways = [key for key in ("username", "auth_file", "credential_helper") if given.get(key)]
    if len(ways) > 1:
        yield ways[1], f"{ways[0]} says the credentials already: leave one of them out"


def _s3_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if given.get("endpoint") and str(given.get("url", "")).startswith("http"):
        yield "endpoint", "url names the host already: write url as s3://bucket/prefix, or leave this out"
    for key in ("profile", "credentials_file", "requester_pays"):
        if given.get("anonymous") and given.get(key):
            yield key, "anonymous sends no credentials: leave one of them out"


def _gcs_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key in ("credentials_file", "billing_project"):
        if given.get("anonymous") and given.get(key):
            yield key, "anonymous sends no credentials: leave one of them out"
    endpoint = str(given.get("endpoint", ""))
    if not given.get("anonymous") and endpoint.startswith("http://"):
        host = endpoint.removeprefix("http://").partition("/")[0]
        if host.rpartition(":")[0] not in ("localhost", "127.0.0.1", "[::1]"):
            yield "endpoint", "a token would cross the network in clear: write https://, or anonymous = true"


def _swift_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    has = {key for key, value in given.items() if value}
    identifier, secret = "application_credential_id", "application_credential_secret_file"
    ways = [way for way in ("username", identifier, "token_file") if way in has]
    if len(ways) > 1:
        yield ways[1], f"{ways[0]} says the credentials already: leave one of them out"
    for one, other in (("username", "password_file"), (identifier, secret)):
        if one in has and other not in has:
            yield one, f"this goes with {other}: name the file with its secret"
        elif other in has and one not in has:
            yield other, f"this goes with {one}: write whose secret it is"
    if "auth_url" in has and not {"username", identifier} & has:
        yield "auth_url", f"a login needs username and password_file, or {identifier}"
    if {"username", identifier} & has and "auth_url" not in has:
        yield min({"username", identifier} & has), "missing auth_url: where to log in"
    if "token_file" in has and "storage_url" not in has:
        yield "token_file", "a token alone does not say where the account is: write storage_url"
    if given.get("auth_version") == "1":
        if identifier in has:
            yield identifier, 'auth_version = "1" knows no application credentials'
    elif {"auth_url", "username"} <= has and not {"project", "project_id"} & has:
        yield "username", "a login needs a project: write project or project_id"


def _sregistry_contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if given.get("username") and not given.get("token_file"):
        yield "username", "a user name needs a token: name its file in token_file"


_OWN_CREDENTIALS = {"swift": _swift_contradictions, "sregistry": _sregistry_contradictions}
"""Kinds whose user names, passwords and tokens go together in other ways than those of HTTP."""


def contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Keys of one remote's table that cannot stand together, with a text for people."""
    if given.get("kind") == "s3":
        yield from _s3_contradictions(given)
    if given.get("kind") == "gcs":
        yield from _gcs_contradictions(given)
    if given.get("kind") == "oras":
        yield from _oras_contradictions(given)
    yield from routes.contradictions(given)
    if given.get("kind") in _OWN_CREDENTIALS:
        yield from _OWN_CREDENTIALS[str(given["kind"])](given)
        return
    user, password, token = (given.get(key) for key in ("username", "password_file", "token_file"))
    if token and (user or password):
        yield "token_file", "a token and a user name contradict each other: leave one of them out"
    elif user and not password:
        yield "username", "a user name needs a password: name its file in password_file"
    elif password and not user:
        yield "password_file", "a password needs its user: write username"
