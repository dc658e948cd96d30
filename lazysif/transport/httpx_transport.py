"""The httpx transport: one connection pool per remote. The only home of httpx.

Redirects are followed by hand, because httpx keeps custom headers across origins; here the credentials are
added hop by hop, and only at the origin they belong to. httpcore 1.0.9 loses pool slots for good when a request
is cancelled while it waits for one or connects (encode/httpcore#1093), so a limiter below the pool's size makes
sure that nobody waits inside the pool, and callers are flights that nobody cancels.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast
from urllib.parse import urljoin

import httpx
import trio

from lazysif import __version__
from lazysif.core.content_range import range_header
from lazysif.core.names import is_inward, origin_of, same_origin
from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout, SourceUnavailable
from lazysif.model import AnswerHead, Request

_MAX_REDIRECTS = 5
_CONNECT_S = 10.0
_KEEPALIVE_S = 60.0
_MAX_HOSTS = 100
_RESOLVED_S = 60.0
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADER_TEXT = "latin-1"
"""Byte for byte (RFC 9110 section 5.5): httpx guesses, and an ETag must go back as it came."""


class HttpxTransport:
    """GETs for one remote.

    Args:
        base_url: the origin that `auth` belongs to; it is sent nowhere else.
        auth: credentials, or None.
        ca_file: PEM file of a private certificate authority, trusted beside the system's.
        connections: most connections at once.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: httpx.Auth | None = None,
        ca_file: str | None = None,
        connections: int = 16,
    ) -> None:
        self._base_url = base_url
        self._auth = auth
        self._inward: dict[str, tuple[float, bool]] = {}
        self._slots = trio.CapacityLimiter(connections)
        self._client = httpx.AsyncClient(
            verify=_tls_context(ca_file),
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
                    response = await self._follow(request)
            except trio.TooSlowError as error:
                raise SourceTimeout(
                    "no answer from the origin in time", origin=origin_of(request.url)
                ) from error
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                raise _translate(error, request.url) from error
            try:
                yield HttpxAnswer(response, deadline)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await response.aclose()

    async def _follow(self, request: Request) -> httpx.Response:
        url = request.url
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._send_once(url, request)
            target = response.headers.get("location", "")
            if response.status_code not in _REDIRECTS or not target:
                return response
            await response.aclose()
            url = _redirect_target(url, target)
            await self._refuse_inward(url)
        raise SourceProtocolError(f"more than {_MAX_REDIRECTS} redirects", origin=origin_of(request.url))

    async def _refuse_inward(self, url: str) -> None:
        """An origin may not send this node to itself or to its neighbours on the link: it has services there that
        trust whoever asks (metadata of clouds, agents).

        Raises: SourceProtocolError.
        """
        if same_origin(url, self._base_url):
            return
        host, base = httpx.URL(url).host, httpx.URL(self._base_url).host
        if host == base or not await self._is_inward(host) or await self._is_inward(base):
            return
        raise SourceProtocolError(
            "the origin redirects to an address of this node or its link", origin=origin_of(url)
        )

    async def _is_inward(self, host: str) -> bool:
        if is_inward(host):
            return True
        now = trio.current_time()
        until, verdict = self._inward.get(host, (0.0, False))
        if until < now:
            try:
                found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                return False  # the connection will fail and say why
            verdict = any(is_inward(str(address[0])) for *_, address in found)
            if len(self._inward) > _MAX_HOSTS:
                self._inward.clear()
            self._inward[host] = now + _RESOLVED_S, verdict
        return verdict

    async def _send_once(self, url: str, request: Request) -> httpx.Response:
        headers = dict(request.headers)
        if request.byte_range is not None:
            headers["Range"] = range_header(request.byte_range)
        built = self._client.build_request(
            "GET",
            url,
            headers=[
                (name.encode(_HEADER_TEXT), value.encode(_HEADER_TEXT)) for name, value in headers.items()
            ],
            timeout=httpx.Timeout(request.stall_s, connect=min(_CONNECT_S, request.stall_s), pool=None),
        )
        auth = self._auth if same_origin(url, self._base_url) else None
        return await self._client.send(built, stream=True, auth=auth, follow_redirects=False)

    async def aclose(self) -> None:
        await self._client.aclose()


class HttpxAnswer:
    """An answer of `HttpxTransport`; see `model.Answer`."""

    def __init__(self, response: httpx.Response, deadline: float) -> None:
        self._response = response
        self._deadline = deadline
        self.head = AnswerHead(
            status=response.status_code,
            headers=dict(httpx.Headers(response.headers.raw, encoding=_HEADER_TEXT)),
            url=origin_of(str(response.url)),
        )

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`. A slow drip that would outlast the request's total time is broken off."""
        try:
            # a generator, though httpx does not say so
            raw = cast("AsyncGenerator[bytes, None]", self._response.aiter_raw())
            async with aclosing(raw) as pieces:
                while True:
                    with trio.fail_at(self._deadline):
                        chunk = await anext(pieces, None)
                    if chunk is None:
                        return
                    yield chunk
        except trio.TooSlowError as error:
            raise SourceTimeout("the origin did not send all of it in time", origin=self.head.url) from error
        except httpx.HTTPError as error:
            raise _translate(error, str(self._response.url)) from error


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's authorities (SSL_CERT_FILE counts), and a site's own beside them."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _redirect_target(url: str, target: str) -> str:
    try:
        joined = urljoin(url, target)
    except ValueError as error:
        raise SourceProtocolError(
            "the origin redirects to an address that cannot be used", origin=origin_of(url)
        ) from error
    if not joined.startswith(("http://", "https://")):
        raise SourceProtocolError("the origin redirects to something that is not HTTP", origin=origin_of(url))
    if url.startswith("https://") and joined.startswith("http://"):
        raise SourceProtocolError("the origin redirects from HTTPS to plain HTTP", origin=origin_of(url))
    return joined


def _translate(error: Exception, url: str) -> LazysifError:
    """An httpx error as ours: what a second try cannot help is a protocol error."""
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
                f"the origin's host name has no address: {cause.strerror}", origin=origin
            )
    match error:
        case httpx.TimeoutException():
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no data"
            return SourceTimeout(f"{what} from the origin in time", origin=origin)
        case httpx.ConnectError():
            return SourceUnavailable(f"no connection to the origin: {error}", origin=origin)
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
