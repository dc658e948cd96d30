"""The httpx transport: one connection pool per remote.

Redirects are followed by hand, because httpx keeps custom headers across origins; here the keyring is asked hop
by hop. httpcore 1.0.9 loses pool slots for good when a request is cancelled while it waits for one or connects
(encode/httpcore#1093), so a limiter below the pool's size makes sure that nobody waits inside the pool, and callers
are flights that nobody cancels.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast

import httpx
import trio

from lazysif import __version__
from lazysif.core.content_range import range_header
from lazysif.core.names import origin_of, same_origin
from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout, SourceUnavailable
from lazysif.model import AnswerHead, Request
from lazysif.transport.authorities import ClientCertificate, tls_context
from lazysif.transport.credentials import Keyring
from lazysif.transport.follow import Redirects
from lazysif.transport.proxy import Proxy

_CONNECT_S = 10.0
_KEEPALIVE_S = 60.0
_HEADER_TEXT = "latin-1"
"""Byte for byte (RFC 9110 section 5.5): httpx guesses, and an ETag must go back as it came."""


class HttpxTransport:
    """GETs for one remote.

    Args:
        base_url: the remote's own address; others may not lead to this node (`redirects.InwardGuard`).
        keyring: which credentials go where; None sends none.
        hosts: where not None, no others are asked.
        ca_file: PEM file of a private certificate authority, trusted beside the system's.
        connections: most connections at once.
        proxy: on the way to every host.
        client_certificate: shown to the host of `base_url` alone.
    """

    def __init__(
        self,
        base_url: str,
        *,
        keyring: Keyring | None = None,
        hosts: Sequence[str] | None = None,
        ca_file: str | None = None,
        connections: int = 16,
        proxy: Proxy | None = None,
        client_certificate: ClientCertificate | None = None,
    ) -> None:
        self._base_url = base_url
        self._keyring = keyring
        self.redirects = Redirects(base_url, hosts, proxied=proxy is not None)
        self._slots = trio.CapacityLimiter(connections)
        self._peer = "proxy" if proxy is not None else "origin"
        self._client = self._new_client(tls_context(ca_file), connections, proxy)
        self._known_client: httpx.AsyncClient | None = None
        if client_certificate is not None:
            self._known_client = self._new_client(
                tls_context(ca_file, client_certificate), connections, proxy
            )

    @staticmethod
    def _new_client(trust: ssl.SSLContext, connections: int, proxy: Proxy | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=trust,
            proxy=proxy_for_httpx(proxy, trust),
            # trust_env would send ~/.netrc credentials and follow proxies of whoever started the daemon
            trust_env=False,
            # a cookie is a credential too, and would go to other ports of its host
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            limits=httpx.Limits(
                max_connections=connections + 4,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEPALIVE_S,
            ),
            headers={"User-Agent": f"lazysif/{__version__}", "Accept-Encoding": "identity"},
        )

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[HttpxAnswer]:
        """See `model.Transport.send`."""
        async with self._slots:
            deadline = trio.current_time() + request.total_s
            try:
                # the read timeout starts anew with every byte: this ends a head that drips in
                with trio.fail_after(request.total_s):
                    answer = await self.redirects.follow(request, self._send_once)
            except trio.TooSlowError as error:
                raise SourceTimeout(
                    "no answer from the origin in time", origin=origin_of(request.url)
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                raise _translate(error, request.url, self._peer) from error
            answer.deadline = deadline
            try:
                yield answer
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await answer.aclose()

    async def _send_once(self, url: str, request: Request) -> HttpxAnswer:
        headers = dict(request.headers)
        if request.byte_range is not None:
            headers["Range"] = range_header(request.byte_range)
        built = self._client.build_request(
            "GET",
            url,
            headers=[
                (name.encode(_HEADER_TEXT), value.encode(_HEADER_TEXT)) for name, value in headers.items()
            ],
            timeout=httpx.Timeout(
                request.stall_s, connect=min(request.connect_s, request.stall_s), pool=None
            ),
        )
        auth = self._keyring.for_url(url) if self._keyring is not None else None
        client = self._client
        if self._known_client is not None and same_origin(url, self._base_url):
            client = self._known_client
        return HttpxAnswer(await client.send(built, stream=True, auth=auth, follow_redirects=False))

    async def send_for_credentials(self, request: httpx.Request) -> httpx.Response:
        """A request that credentials make of a host of their own (for a token), with its body.

        Raises: httpx.HTTPError.
        """
        timeout = httpx.Timeout(_CONNECT_S, pool=None)
        request.extensions = {"timeout": timeout.as_dict(), **request.extensions}
        return await self._client.send(request, auth=None, follow_redirects=False)

    async def put(self, url: str, content: bytes, total_s: float) -> AnswerHead:
        """Write a small file; redirects are not followed.

        Raises: SourceTimeout, SourceUnavailable, SourceProtocolError: as `model.Transport.send`.
        """
        auth = self._keyring.for_url(url) if self._keyring is not None else None
        async with self._slots:
            try:
                request = self._client.build_request(
                    "PUT", url, content=content, timeout=httpx.Timeout(total_s, pool=None)
                )
                with trio.fail_after(total_s):
                    answer = HttpxAnswer(
                        await self._client.send(request, stream=True, auth=auth, follow_redirects=False)
                    )
                    await answer.aclose()
                    return answer.head
            except trio.TooSlowError as error:
                raise SourceTimeout("no answer to a PUT in time", origin=origin_of(url)) from error
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                raise _translate(error, url) from error

    async def aclose(self) -> None:
        await self._client.aclose()
        if self._known_client is not None:
            await self._known_client.aclose()


class HttpxAnswer:
    """An answer of `HttpxTransport`; see `model.Answer`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.deadline = float("inf")
        self.head = AnswerHead(
            status=response.status_code,
            headers=dict(httpx.Headers(response.headers.raw, encoding=_HEADER_TEXT)),
            url=origin_of(str(response.url)),
        )

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`. A slow drip that would outlast the request's total time is broken off."""
        if self._response.is_stream_consumed:  # by credentials that look at bodies
            yield self._response.content
            return
        try:
            # a generator, though httpx does not say so
            raw = cast("AsyncGenerator[bytes, None]", self._response.aiter_raw())
            async with aclosing(raw) as pieces:
                while True:
                    with trio.fail_at(self.deadline):
                        chunk = await anext(pieces, None)
                    if chunk is None:
                        return
                    yield chunk
        except trio.TooSlowError as error:
            raise SourceTimeout("the origin did not send all of it in time", origin=self.head.url) from error
        except httpx.HTTPError as error:
            raise _translate(error, str(self._response.url)) from error

    async def aclose(self) -> None:
        """Let go of it, read or not; an answer that is left early takes its connection along.

        One that has no body, as each revalidation's 304, is read to its end: a new connection would cost the
        next request two round trips.
        """
        if self.head.status in (204, 304) and not self._response.is_stream_consumed:
            try:
                await self._response.aread()
            except httpx.HTTPError:
                pass
        await self._response.aclose()


def proxy_for_httpx(proxy: Proxy | None, trust: ssl.SSLContext) -> httpx.Proxy | None:
    """The proxy in httpx's terms; `trust` is for one that is spoken to by TLS."""
    if proxy is None:
        return None
    return httpx.Proxy(
        proxy.url,
        auth=(proxy.username, proxy.password) if proxy.username is not None else None,
        ssl_context=trust if proxy.url.startswith("https://") else None,
    )


def _translate(error: Exception, url: str, peer: str = "origin") -> LazysifError:
    """An httpx error as ours: what a second try cannot help is a protocol error.

    Args: peer: whom connections are made to.
    """
    origin = origin_of(url)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SourceProtocolError(
                f"the origin's certificate is not trusted: {cause.verify_message}",
                origin=origin,
                hint="for a private authority set ca_file",
            )
        if isinstance(cause, socket.gaierror):
            return SourceUnavailable(
                f"the {peer}'s host name has no address: {cause.strerror}", origin=origin
            )
    match error:
        case httpx.TimeoutException():
            if isinstance(error, httpx.ConnectTimeout):
                return SourceTimeout(f"no connection from the {peer} in time", origin=origin)
            return SourceTimeout("no data from the origin in time", origin=origin)
        case httpx.ConnectError():
            return SourceUnavailable(f"no connection to the {peer}: {error}", origin=origin)
        case httpx.ProxyError():
            return SourceUnavailable(f"the proxy does not connect to the origin: {error}", origin=origin)
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | UnicodeError():
            return SourceProtocolError("the origin's address cannot be used", origin=origin)
        case httpx.LocalProtocolError():
            return SourceProtocolError(f"not a possible request: {error}", origin=origin)
        case _:
            return SourceUnavailable(f"the connection broke: {error or type(error).__name__}", origin=origin)


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
