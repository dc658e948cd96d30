"""[remote.NAME]: the keys of each kind of remote, and which URIs of images it serves."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from lazysif.config import routes
from lazysif.config.base import SpanOrNone
from lazysif.config.remote import RemoteConfig
from lazysif.config.values import near
from lazysif.image_uri import ImageUri


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


def kind_of(given: object) -> type[RemoteConfig]:
    """The table of a kind. Raises: ValueError, with a text for people."""
    if isinstance(given, str) and given in KINDS:
        return KINDS[given]
    known = ", ".join(f'"{kind}"' for kind in KINDS)
    raise ValueError(f"{given!r} is not known{near(str(given), KINDS)}: write one of {known}")
