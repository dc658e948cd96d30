"""Names from the kernel, and the URLs that they stand for. Pure.

A name is one path component; a path is names joined by "/", "" the remote's own directory. What cannot be
written in a listing or a log without harm has no name here: it answers ENOENT.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import SplitResult, quote, urlsplit

# NAME_MAX of Linux, and of the FUSE protocol (1024) no less.
LONGEST_NAME_BYTES = 255
IMAGE_SUFFIXES = (".sif", ".simg", ".img", ".sqsh", ".squashfs", ".sqfs", ".ext3")
# Cc: controls with DEL and C1; Cs: lone surrogates; Zl, Zp: line separators, which split log lines.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Unicode Bidi_Control (PropList.txt): they make a terminal show another name than the one that is there.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# RFC 3986 section 2.3 needs no encoding; of the other pchar only those that no server, proxy or signer treats
# specially. "+" is a space to some object stores, ";" starts parameters in some servers.
_SAFE = "-._~@:,="
# A base URL is taken as its author wrote it, percent-encodings included.
_SAFE_IN_BASE = "/%-._~@:,=!$&'()*+;"
_KEPT_ANSWERS = 512
"""Each request asks the same of the same few URLs a dozen times."""
_PORTS = {"http": 80, "https": 443}
# Download pages of Singularity Registry Server: who knows the last part may have the file.
_SECRET_PART = re.compile(r"(/containers/[^/]+/download/(?:share/)?)[^/]+")


def decode_name(raw: bytes) -> str | None:
    """The name in the kernel's bytes; None where no image or directory can have it.

    Refused: "", ".", "..", "/", control characters, line separators and bidirectional controls, bytes that
    are not UTF-8 (surrogates included), more than 255 bytes.
    """
    if raw in (b"", b".", b"..") or len(raw) > LONGEST_NAME_BYTES:
        return None
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    if "/" in name or any(_is_refused(character) for character in name):
        return None
    return name


def _is_refused(character: str) -> bool:
    return unicodedata.category(character) in _REFUSED_CATEGORIES or character in _BIDI_CONTROLS


def is_name(text: str) -> bool:
    """Whether `text` is what `decode_name` may give."""
    return decode_name(text.encode(errors="surrogatepass")) == text


def join_url(base_url: str, path: str) -> str:
    """The URL of `path` below `base_url`.

    Each component is percent-encoded, so that none can leave the base's path or start a query. The base's
    query (a signature) comes behind the path; its fragment is dropped. A path that is "" or ends in "/" gives
    the directory's URL, with a trailing slash.

    Raises:
        ValueError: a component that is no name (see `decode_name`), or a base that is not an absolute URL.
    """
    base = urlsplit(base_url)
    if not base.scheme or not base.netloc:
        raise ValueError("the base is not an absolute URL")
    names = path.removesuffix("/").split("/") if path else []
    if not all(is_name(name) for name in names):
        raise ValueError(f"not a path of names: {path!r}")
    below = "".join("/" + quote(name, safe=_SAFE) for name in names)
    directory = "/" if not path or path.endswith("/") else ""
    joined = quote(base.path, safe=_SAFE_IN_BASE).rstrip("/") + below + directory
    return base._replace(path=joined, fragment="").geturl()


def has_image_suffix(name: str) -> bool:
    """Whether a file of that name is likely an image, by the endings that Apptainer and its users give."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def host_and_port(url: str) -> tuple[str, int]:
    """Whom a URL of HTTP leads to: host, "" if it names none, and effective port. Raises: ValueError: not a URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def _netloc(parts: SplitResult) -> str:
    """Lower case, without userinfo, without the scheme's own port."""
    netloc = parts.netloc.rpartition("@")[2].lower()
    port = _PORTS.get(parts.scheme)
    return netloc.removesuffix(f":{port}").removesuffix(":")


@lru_cache(maxsize=_KEPT_ANSWERS)
def origin_of(url: str) -> str:
    """`url` without userinfo, query, fragment and secret parts of its path: identity, and what people see.

    Scheme and host come in lower case, without the scheme's own port. Never raises, as errors are made with
    it: what cannot be split is "(not a URL)".
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    path = _SECRET_PART.sub(r"\1(secret)", parts.path)
    return SplitResult(parts.scheme, _netloc(parts), path, "", "").geturl()


@lru_cache(maxsize=_KEPT_ANSWERS)
def same_origin(a: str, b: str) -> bool:
    """Whether credentials for one may go to the other: scheme, host and effective port (RFC 6454 section 4).

    False for anything that is not an http or https URL.
    """
    try:
        first, second = ((urlsplit(url).scheme, *host_and_port(url)) for url in (a, b))
    except ValueError:
        return False
    return first == second and first[0] in _PORTS and bool(first[1])


def is_named_host(netloc: str, hosts: Iterable[str]) -> bool:
    """Whether a host (with a port where it is not the scheme's own) is one of `hosts`.

    `*.example.org` names all below example.org and `*` all there are, but never this node, its link or a cloud's
    metadata: those are named only by their own name.
    """
    given = netloc.rpartition("@")[2].lower()
    name = urlsplit(f"//{given}").hostname or ""
    for host in hosts:
        known = host.lower()
        if given == known:
            return True
        if "*" in known and fnmatchcase(given, known) and not is_inward(name):
            return True
    return False


_METADATA_HOSTS = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}
_METADATA_ADDRESSES = {"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}
"""Of clouds that do not use 169.254.169.254 (EC2 over IPv6, Alibaba, Azure, Oracle)."""


def is_inward(host: str) -> bool:
    """Whether a host, as a URL has it, is this node, its link, or a cloud's metadata; names are not resolved.

    Addresses count in every spelling that resolvers take (`127.1`, `0x7f000001`, `::ffff:127.0.0.1`).
    """
    name = host.strip("[]").rstrip(".").lower().partition("%")[0]
    if name == "localhost" or name.endswith(".localhost") or name in _METADATA_HOSTS:
        return True
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(name)
    except ValueError:
        number = _ipv4_number(name)
        if number is None:
            return False
        address = ipaddress.IPv4Address(number)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or (address.version == 4 and int(address) >> 24 == 0)
        or str(address) in _METADATA_ADDRESSES
    )


def _ipv4_number(text: str) -> int | None:
    """What inet_aton(3) makes of one to four numbers, decimal, octal or hexadecimal; None if it is none."""
    parts = text.split(".")
    if len(parts) > 4:
        return None
    values = []
    for part in parts:
        if not re.fullmatch(r"0x[0-9a-f]*|[0-9]+", part):
            return None
        base = 16 if part.startswith("0x") else 8 if part.startswith("0") else 10
        try:
            values.append(int(part.removeprefix("0x") or "0", base))
        except ValueError:
            return None
    if any(value > 255 for value in values[:-1]) or values[-1] >= 256 ** (5 - len(values)):
        return None
    number = values[-1]
    for place, value in enumerate(values[:-1]):
        number += value << (24 - 8 * place)
    return number
