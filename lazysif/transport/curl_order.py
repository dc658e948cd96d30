"""What libcurl is told of one GET, and what it says where that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pycurl

from lazysif.transport.authorities import Authorities, ClientCertificate
from lazysif.transport.proxy import Proxy

_KEEPALIVE_S = 60


class Failure(StrEnum):
    """What ails a transfer, as far as its callers tell apart."""

    NO_NAME = "no name"
    NO_CONNECTION = "no connection"
    LATE = "late"
    UNTRUSTED = "untrusted"
    BAD_ADDRESS = "bad address"
    NO_AUTHORITIES = "no authorities"
    PROXY = "proxy"
    BROKEN = "broken"


_FAILURES = {
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.NO_NAME,
    pycurl.E_COULDNT_RESOLVE_PROXY: Failure.NO_NAME,
    pycurl.E_COULDNT_CONNECT: Failure.NO_CONNECTION,
    pycurl.E_SSL_CONNECT_ERROR: Failure.NO_CONNECTION,
    pycurl.E_OPERATION_TIMEDOUT: Failure.LATE,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.UNTRUSTED,
    pycurl.E_URL_MALFORMAT: Failure.BAD_ADDRESS,
    pycurl.E_SSL_CACERT_BADFILE: Failure.NO_AUTHORITIES,
}


class CurlFailure(Exception):
    """A transfer that broke off.

    Args:
        text: libcurl's words; they may name the host, never more of the URL.
        code: of libcurl (`CURLE_*`), 0 where it is not libcurl's.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.kind = _FAILURES.get(code, Failure.BROKEN)
        if text.startswith("CONNECT tunnel failed"):  # of several codes, by version
            self.kind = Failure.PROXY


@dataclass(frozen=True, slots=True)
class Order:
    """One GET, as it goes onto the wire.

    Args:
        url: without userinfo; says where to connect.
        target: path and query, byte for byte.
        headers: lines without their end, `Host` excepted.
        connect_s: the most that name, TCP and TLS may take together.
        trust: the authorities.
        client: what the server may know this node by.
        proxy: on the way to the host.
        refuses: whether an address must not be connected to, None where any may.
        bulk: see `model.Request`.
        followed_by: further connections that are to be made to the same place once it is known.
    """

    url: str
    target: bytes
    headers: Sequence[bytes]
    connect_s: float
    trust: Authorities
    refuses: Callable[[str], bool] | None = None
    client: ClientCertificate | None = None
    proxy: Proxy | None = None
    bulk: int = 0
    followed_by: int = 0


def new_handle(order: Order) -> pycurl.Curl:
    """A handle that is set up for this GET, without what takes in its answer.

    Raises:
        pycurl.error, ValueError, UnicodeError: libcurl refuses to be set up so; see `failure_of`.
    """
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, order.url)
    handle.setopt(pycurl.REQUEST_TARGET, order.target)
    handle.setopt(pycurl.PATH_AS_IS, 1)
    handle.setopt(pycurl.HTTPHEADER, list(order.headers))
    handle.setopt(pycurl.FOLLOWLOCATION, 0)
    # one connection a request in flight: over one HTTP/2 connection a large answer would keep small ones waiting
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.HTTP09_ALLOWED, 0)
    handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    handle.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
    _set_proxy(handle, order)
    _set_trust(handle, order)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.MAXAGE_CONN, _KEEPALIVE_S)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(order.connect_s * 1000)))
    return handle


def _set_proxy(handle: pycurl.Curl, order: Order) -> None:
    """Exactly this one: what the environment of whoever started the daemon says does not count."""
    proxy = order.proxy
    handle.setopt(pycurl.PROXY, proxy.url if proxy is not None else "")
    handle.setopt(pycurl.NOPROXY, "" if proxy is not None else "*")
    handle.setopt(pycurl.HEADEROPT, pycurl.HEADER_SEPARATE)
    if proxy is not None and proxy.username is not None:
        handle.setopt(pycurl.PROXYAUTH, pycurl.HTTPAUTH_BASIC)
        handle.setopt(pycurl.PROXYUSERNAME, proxy.username)
        handle.setopt(pycurl.PROXYPASSWORD, proxy.password)


def _set_trust(handle: pycurl.Curl, order: Order) -> None:
    """Exactly these authorities, for proxies too: the places that libcurl was built for do not count."""
    trust, client = order.trust, order.client
    handle.setopt(pycurl.SSL_VERIFYPEER, 1)
    handle.setopt(pycurl.SSL_VERIFYHOST, 2)
    for file, merged, directory in (
        (pycurl.CAINFO, pycurl.CAINFO_BLOB, pycurl.CAPATH),
        (pycurl.PROXY_CAINFO, pycurl.PROXY_CAINFO_BLOB, pycurl.PROXY_CAPATH),
    ):
        handle.unsetopt(file)
        handle.unsetopt(directory)
        if trust.file:
            handle.setopt(file, trust.file)
        if trust.merged:
            handle.setopt(merged, trust.merged)
        if trust.directory:
            handle.setopt(directory, trust.directory)
    if client is not None:
        handle.setopt(pycurl.SSLCERT, client.certificate)
        handle.setopt(pycurl.SSLKEY, client.key)


def failure_of(error: Exception) -> CurlFailure:
    """What libcurl refuses to be set up with."""
    if isinstance(error, pycurl.error) and error.args and isinstance(error.args[0], int):
        return CurlFailure(str(error.args[-1]), error.args[0])
    return CurlFailure("an address or header that cannot be sent", pycurl.E_URL_MALFORMAT)
