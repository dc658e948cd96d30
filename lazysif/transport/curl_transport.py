"""The libcurl transport: the flow of data, moved by the thread of `curl_engine`. Same rules as `httpx_transport`.

httpx is used for what is not transfer: URLs in their normal form, and the credentials of the keyring, whose flows
are driven by hand; what such a flow asks elsewhere (a token) goes through the remote's httpx client.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache
from typing import Protocol

import httpx
import trio

from lazysif import __version__
from lazysif.core.content_range import range_header
from lazysif.core.names import is_inward, origin_of, same_origin
from lazysif.errors import LazysifError, SourceProtocolError, SourceTimeout, SourceUnavailable
from lazysif.model import AnswerHead, Request
from lazysif.transport.authorities import Authorities, ClientCertificate
from lazysif.transport.credentials import Keyring
from lazysif.transport.curl_engine import CurlEngine
from lazysif.transport.curl_order import CurlFailure, Failure, Order
from lazysif.transport.curl_transfer import Transfer
from lazysif.transport.follow import Redirects
from lazysif.transport.proxy import Proxy

_HEADER_TEXT = "latin-1"
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 section 5.5; libcurl sends what it is given."""
_VERIFY_TEXT = re.compile(r"SSL certificate (?:OpenSSL verify result|problem): (.*?)(?: \(\d+\))?")
_BODY_OF_A_CHALLENGE = 64 << 10
_KEPT_URLS = 256
"""httpx takes 60 µs to parse one twice, and each request of an image has the same."""
_SET_BY_LIBCURL = (b"host", b"connection")


class TokenClient(Protocol):
    """What sends requests of credentials to hosts of their own: the remote's `HttpxTransport`."""

    async def send_for_credentials(self, request: httpx.Request) -> httpx.Response:
        """The answer with its body."""
        ...


class CurlTransport:
    """GETs for one remote; arguments as of `HttpxTransport`.

    Args:
        engine: shared by all remotes.
        token_client: needed where the credentials ask other hosts (for a token).
        redirects: those of the remote's other transport: where a URL led it, this one need not ask.

    Raises:
        OSError: `ca_file` cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        engine: CurlEngine,
        *,
        keyring: Keyring | None = None,
        token_client: TokenClient | None = None,
        hosts: Sequence[str] | None = None,
        ca_file: str | None = None,
        connections: int = 16,
        proxy: Proxy | None = None,
        client_certificate: ClientCertificate | None = None,
        redirects: Redirects | None = None,
    ) -> None:
        self._base_url = base_url
        self._engine = engine
        self._keyring = keyring
        self._token_client = token_client
        self.redirects = redirects or Redirects(base_url, hosts, proxied=proxy is not None)
        self._proxy = proxy
        self._client_certificate = client_certificate
        self._trust = Authorities.of(ca_file)
        self._slots = trio.CapacityLimiter(connections)

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[CurlAnswer]:
        """See `model.Transport.send`."""
        async with self._slots:
            deadline = trio.current_time() + request.total_s
            try:
                with trio.fail_at(deadline):
                    answer = await self.redirects.follow(request, self._send_once)
            except trio.TooSlowError as error:
                raise SourceTimeout(
                    "no answer from the origin in time", origin=origin_of(request.url)
                ) from error
            answer.deadline = deadline
            try:
                yield answer
            finally:
                await answer.aclose()

    async def _send_once(self, url: str, request: Request) -> CurlAnswer:
        """One hop. Raises: as `model.Transport.send`."""
        try:
            built = _built(url, request)
            auth = self._keyring.for_url(url) if self._keyring is not None else None
            if auth is None and (built.url.username or built.url.password):
                auth = httpx.BasicAuth(built.url.username, built.url.password)
            if auth is None:
                return await self._exchange(built, request)
            return await self._authenticated(built, request, auth)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise SourceProtocolError("the origin's address cannot be used", origin=origin_of(url)) from error
        except httpx.HTTPError as error:
            raise SourceUnavailable(
                f"the credentials cannot be renewed: {type(error).__name__}", origin=origin_of(url)
            ) from error

    async def _authenticated(self, built: httpx.Request, request: Request, auth: httpx.Auth) -> CurlAnswer:
        """Let the credentials see each answer, and ask again as they wish, until they are content."""
        answer: CurlAnswer | None = None
        try:
            async with aclosing(auth.async_auth_flow(built)) as flow:
                wanted = await anext(flow)
                while True:
                    if answer is not None:
                        await answer.aclose()
                        answer = None
                    if _same_place(wanted, built):
                        answer = await self._exchange(wanted, request)
                        response = await _shown(answer, wanted, auth.requires_response_body)
                    else:
                        response = await self._token_response(wanted)
                    try:
                        wanted = await flow.asend(response)
                    except StopAsyncIteration:
                        break
        except BaseException:
            if answer is not None:
                await answer.aclose()
            raise
        if answer is None:
            raise SourceProtocolError("internal error: credentials that ask for nothing")
        return answer

    async def _token_response(self, wanted: httpx.Request) -> httpx.Response:
        if self._token_client is None:
            raise SourceProtocolError("these credentials need a token, and nothing can ask for it")
        return await self._token_client.send_for_credentials(wanted)

    async def _exchange(self, built: httpx.Request, request: Request) -> CurlAnswer:
        """One request and the head of its answer. Raises: LazysifError."""
        url = _sent(built.url)
        # a proxy of plain HTTP is told the whole address (RFC 9112 section 3.2.2)
        whole = self._proxy is not None and built.url.scheme == "http"
        order = Order(
            url=url,
            target=url.encode("ascii") if whole else built.url.raw_path,
            headers=_header_lines(built, url),
            connect_s=min(request.connect_s, request.stall_s),
            trust=self._trust,
            refuses=is_inward if await self.redirects.guard.looks_closer(url) else None,
            client=self._client_certificate if same_origin(url, self._base_url) else None,
            proxy=self._proxy,
            bulk=request.bulk,
            followed_by=0 if self.redirects.sends_on(url) else request.followed_by,
        )
        transfer = self._engine.send(order)
        try:
            await transfer.head(request.stall_s)
        except BaseException as error:
            await transfer.aclose()
            if isinstance(error, CurlFailure | trio.TooSlowError):
                raise _translate(error, transfer, url) from error
            raise
        return CurlAnswer(transfer, url, request.stall_s)

    async def aclose(self) -> None:
        """The engine is whoever's made it."""


class CurlAnswer:
    """An answer of `CurlTransport`; see `model.Answer`."""

    def __init__(self, transfer: Transfer, url: str, stall_s: float) -> None:
        self._transfer = transfer
        self._url = url
        self._stall_s = stall_s
        self.deadline = float("inf")
        headers: dict[str, str] = {}
        for name, value in transfer.headers:
            key, text = name.decode(_HEADER_TEXT), value.decode(_HEADER_TEXT)
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.head = AnswerHead(status=transfer.status, headers=headers, url=origin_of(url))

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`. A slow drip that would outlast the request's total time is broken off."""
        while True:
            # what has come is given at once: a deadline of its own and a turn of the loop cost 40 µs a chunk
            if (ready := self._transfer.take_now()) is not None:
                yield ready
                continue
            try:
                with trio.fail_at(self.deadline) as total:
                    chunk = await self._transfer.take(self._stall_s)
            except CurlFailure as error:
                raise _translate(error, self._transfer, self._url) from error
            except trio.TooSlowError as error:
                if total.cancelled_caught:
                    raise SourceTimeout(
                        "the origin did not send all of it in time", origin=self.head.url
                    ) from error
                raise _translate(error, self._transfer, self._url) from error
            if chunk is None:
                return
            yield chunk

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return self._transfer.headers

    async def aclose(self) -> None:
        """Let go of it, read or not; an answer that is left early takes its connection along."""
        await self._transfer.aclose()


@lru_cache(maxsize=_KEPT_URLS)
def _parsed(url: str) -> httpx.URL:
    """Raises: httpx.InvalidURL."""
    return httpx.URL(url)


@lru_cache(maxsize=_KEPT_URLS)
def _sent(url: httpx.URL) -> str:
    """The URL as it is asked for. Raises: UnicodeError: a label that no name can have."""
    url.raw_host.decode("ascii").encode("idna")
    return str(url.copy_with(username=None, password=None, fragment=None))


def _built(url: str, request: Request) -> httpx.Request:
    """The request as credentials may sign it, in the same words as the httpx transport's."""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"lazysif/{__version__}"}
    headers.update(request.headers)
    if request.byte_range is not None:
        headers["Range"] = range_header(request.byte_range)
    encoded = [(name.encode(_HEADER_TEXT), value.encode(_HEADER_TEXT)) for name, value in headers.items()]
    built = httpx.Request("GET", _parsed(url), headers=encoded)
    if built.url.scheme not in ("http", "https") or not built.url.host:
        raise httpx.UnsupportedProtocol("not an address of HTTP")
    return built


def _header_lines(built: httpx.Request, url: str) -> list[bytes]:
    lines = []
    for name, value in built.headers.raw:
        if _NOT_IN_A_VALUE.search(value) or value != value.strip(b" \t"):
            raise SourceProtocolError(
                f"not a possible request: header {name.decode(_HEADER_TEXT)}", origin=origin_of(url)
            )
        if name.lower() not in _SET_BY_LIBCURL:
            lines.append(name + b": " + value if value else name + b";")
    return lines


def _same_place(wanted: httpx.Request, built: httpx.Request) -> bool:
    return wanted is built or (wanted.method == "GET" and wanted.url == built.url)


async def _shown(answer: CurlAnswer, request: httpx.Request, with_body: bool) -> httpx.Response:
    """The answer as credentials look at it; its body only where they ask for it, and only the start of a long one."""
    body = b""
    if with_body and answer.head.status >= 400:
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= _BODY_OF_A_CHALLENGE:
                    break
    headers = [pair for pair in answer.raw_headers if pair[0] not in (b"content-encoding", b"content-length")]
    return httpx.Response(answer.head.status, headers=headers, content=body, request=request)


def _translate(error: Exception, transfer: Transfer, url: str) -> LazysifError:
    """A failure of libcurl as ours, in the words of `httpx_transport`."""
    origin, peer = origin_of(url), "proxy" if transfer.order.proxy is not None else "origin"
    if isinstance(error, trio.TooSlowError):
        if transfer.connected_at is not None:
            return SourceTimeout("no data from the origin in time", origin=origin)
        return SourceTimeout(f"no connection from the {peer} in time", origin=origin)
    assert isinstance(error, CurlFailure)
    if transfer.refused_address:
        return SourceProtocolError(
            "the origin redirects to an address of this node or its link", origin=origin
        )
    match error.kind:
        case Failure.UNTRUSTED:
            said = _VERIFY_TEXT.fullmatch(error.text)
            return SourceProtocolError(
                f"the origin's certificate is not trusted: {said[1] if said else error.text}",
                origin=origin,
                hint="for a private authority set ca_file",
            )
        case Failure.NO_NAME:
            return SourceUnavailable(f"the {peer}'s host name has no address: {error.text}", origin=origin)
        case Failure.LATE:
            return SourceTimeout(f"no connection from the {peer} in time", origin=origin)
        case Failure.NO_CONNECTION:
            return SourceUnavailable(f"no connection to the {peer}: {error.text}", origin=origin)
        case Failure.PROXY:
            return SourceUnavailable(f"the proxy does not connect to the origin: {error.text}", origin=origin)
        case Failure.BAD_ADDRESS:
            return SourceProtocolError("the origin's address cannot be used", origin=origin)
        case Failure.NO_AUTHORITIES:
            return SourceProtocolError("the certificate authorities cannot be read", origin=origin)
        case Failure.BROKEN:
            return SourceUnavailable(f"the connection broke: {error.text}", origin=origin)
