"""URLs, hosts and URIs that the configuration may name.

Errors as in `values`: ValueError with a text for people, which never repeats a URL that may hold a secret.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from lazysif.config.values import fixed_name, text_of
from lazysif.image_uri import parse_uri

_URL_SCHEMES = ("http", "https")
_ORAS_URL = re.compile(r"oras://([A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)((?:/[a-z0-9][a-z0-9._-]*)*)")


def url(value: object) -> str:
    """An http or https URL without userinfo and fragment; a query (a signature) is kept."""
    text = text_of(value)
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(
            "spaces, backslashes and control characters cannot stand in a URL: percent-encode them"
        )
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if "@" in parts.netloc:
        raise ValueError("the URL holds a user name: write username, and put the password in password_file")
    if "://" not in text:
        raise ValueError("the URL has no scheme: start it with https:// or http://")
    if parts.scheme not in _URL_SCHEMES:
        raise ValueError(f'a URL of scheme "{parts.scheme}" cannot be read: write https:// or http://')
    if not host:
        raise ValueError("the URL names no host")
    if parts.fragment:
        raise ValueError("the URL has a fragment (#...), which no server sees: leave it out")
    return text


def optional_url(value: object) -> str:
    """As `url`; "" stands for none."""
    return "" if value == "" else url(value)


def endpoint(value: object) -> str:
    """Scheme, host and port of a provider; "" stands for the kind's own."""
    if value == "":
        return ""
    text = url(value)
    if urlsplit(text).path.strip("/") or "?" in text:
        raise ValueError('an endpoint is scheme, host and port alone: write "https://s3.example.org:9000"')
    return text.rstrip("/")


def hosts(value: object) -> tuple[str, ...]:
    """Host names, with a port where one is meant; `*.example.org` stands for all below it."""
    if isinstance(value, str) or not isinstance(value, list | tuple) or not value:
        raise ValueError('not a list of hosts: write ["images.example.org", "*.example.com"]')
    for host in value:
        if not re.fullmatch(r"(\*|(\*\.)?[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?", text_of(host)):
            raise ValueError(f'"{host}" is not a host: write "images.example.org" or "*.example.org"')
    return tuple(value)


def optional_hosts(value: object) -> tuple[str, ...]:
    """As `hosts`; an empty list stands for none."""
    return () if value in ([], ()) else hosts(value)


def oras_url(value: object) -> str:
    """`oras://host[:port][/path]`: where in which registry all names of a remote begin; "" stands for none."""
    if value == "":
        return ""
    match = _ORAS_URL.fullmatch(text_of(value).rstrip("/"))
    if match is None:
        raise ValueError('not the address of a registry: write "oras://registry.example.org/project"')
    return f"oras://{match[1].lower()}{match[2]}"


def s3_url(value: object) -> str:
    """`s3://bucket/prefix`, or the http(s) URL of the same."""
    return _bucket_url(value, "s3")


def gs_url(value: object) -> str:
    """`gs://bucket/prefix`."""
    text = _bucket_url(value, "gs")
    if not text.startswith("gs://"):
        raise ValueError("the URL names no bucket: write gs://BUCKET or gs://BUCKET/PREFIX")
    return text


def _bucket_url(value: object, scheme: str) -> str:
    text = text_of(value)
    if not text.lower().startswith(f"{scheme}://"):
        text = url(value)
        if "?" in text:
            raise ValueError('a signed URL is for one object: give it to a remote of kind "http"')
        return text
    rest = text[len(scheme) + 3 :]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/.*)?", rest) or not rest.isprintable():
        raise ValueError(f"the URL names no bucket: write {scheme}://BUCKET or {scheme}://BUCKET/PREFIX")
    return f"{scheme}://{rest.rstrip('/')}"


def swift_url(value: object) -> str:
    """A container of Swift, and what its names begin with: "swift://container/prefix"; "" is the whole account."""
    text = text_of(value).rstrip("/")
    try:
        if text:
            fixed_name(text.removeprefix("swift://"))
    except ValueError:
        text = "?"
    if text and (not text.startswith("swift://") or "?" in text):
        raise ValueError('not a container: write "swift://container" or "swift://container/prefix"')
    return text


def image_uri(value: object) -> str:
    """The URI of an image, as Apptainer takes it."""
    return parse_uri(text_of(value)).text
