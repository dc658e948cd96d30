"""What mirrors, proxies and client certificates may be in the configuration.

Errors as in `values`: ValueError with a text for people, which never repeats a URL that may hold a secret.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from lazysif.config import urls

Groups = tuple[tuple[str, ...], ...]
"""In order of preference; those of one group are equal."""

DIRECT = "direct"
"""Among proxies: none."""
OWN = "url"
"""Among mirrors: the remote's own URL."""


def proxies(value: object) -> Groups:
    """Groups of HTTP proxies: `[["http://cache1:3128", "http://cache2:3128"], ["direct"]]`."""
    return _groups(value, _proxy, '[["http://cache1:3128", "http://cache2:3128"], ["direct"]]')


def mirrors(value: object) -> Groups:
    """Groups of base URLs that have the same files: `["https://near.example/sif/", "url"]`."""
    return _groups(value, _mirror, '["https://near.example/sif/", "url"]')


def _groups(value: object, parse: Callable[[str], str], example: str) -> Groups:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(f"not a list: write {example}")
    groups = []
    for given in value:
        members = [given] if isinstance(given, str) else given
        if not isinstance(members, list | tuple) or not all(isinstance(member, str) for member in members):
            raise ValueError(f"neither text nor a list of texts: write {example}")
        if not members:
            raise ValueError("a group is empty: leave it out")
        groups.append(tuple(parse(member) for member in members))
    found = [member for group in groups for member in group]
    if len(set(found)) < len(found):
        raise ValueError("one of them is named twice: leave one out")
    return tuple(groups)


def _proxy(text: str) -> str:
    if text == DIRECT:
        return text
    if "@" in text:
        raise ValueError("a proxy's URL holds a user name: write proxy_username and proxy_password_file")
    url = urls.url(text)
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise ValueError("a proxy is spoken to by plain HTTP, also for https:// origins: write http://")
    if parts.path.strip("/") or parts.query:
        raise ValueError("a proxy is scheme, host and port, without a path: as http://cache1:3128")
    return url.rstrip("/")


def _mirror(text: str) -> str:
    if text == OWN:
        return text
    url = urls.url(text)
    if "?" in url:
        raise ValueError("a mirror's URL has a query: signed URLs cannot be mirrors")
    return url


def contradictions(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """See `contradictions.contradictions`."""
    user, password, ways = (given.get(k) for k in ("proxy_username", "proxy_password_file", "proxies"))
    if user and not password:
        yield "proxy_username", "a user name needs a password: name its file in proxy_password_file"
    elif password and not user:
        yield "proxy_password_file", "a password needs its user: write proxy_username"
    elif user and not ways:
        yield "proxy_username", "there are no proxies: write proxies, or leave it out"
    named = given.get("mirrors")
    if isinstance(named, tuple) and given.get("url") in {mirror for group in named for mirror in group}:
        yield "mirrors", f'the remote\'s own URL is among them: write "{OWN}" for it'
    yield from _certificate(given)


def _certificate(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    certificate, key = given.get("client_cert_file"), given.get("client_key_file")
    if certificate and not key:
        yield "client_cert_file", "a certificate needs its key: name its file in client_key_file"
    elif key and not certificate:
        yield "client_key_file", "a key needs its certificate: name its file in client_cert_file"
    elif isinstance(certificate, Path) and isinstance(key, Path):
        if str(given.get("url", "")).startswith("http://"):
            yield "client_cert_file", "plain HTTP has no certificates: write https:// in url"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else error.strerror or "not a PEM file"
            yield "client_key_file", f"the pair of certificate and key cannot be used: {_plain(why)}"


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, and nobody is there to type it")


def _plain(why: str) -> str:
    """OpenSSL's reason without its code: "[X509: KEY_VALUES_MISMATCH] key values mismatch (_ssl.c:4107)"."""
    return why.partition("] ")[2].partition(" (")[0] or why
