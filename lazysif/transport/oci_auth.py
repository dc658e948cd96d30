"""Credentials of OCI registries: basic, or a token for each repository (distribution specification, "token").

A registry is asked without credentials until it has said once what it wants; that is remembered for its host, so
that a second repository costs one question to the token service and no refused request. A token is asked for by
one request while the others wait, renewed before it ends, and asked anew when the registry refuses it.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
import trio

from lazysif.core.challenges import Challenge, parse_challenges
from lazysif.core.content_range import refusal
from lazysif.core.names import is_inward, origin_of, same_origin
from lazysif.core.oci import repository_in
from lazysif.errors import AccessDenied, SourceProtocolError
from lazysif.model import AnswerHead
from lazysif.transport.oci_credentials import ANONYMOUS, HINT, Credential, OciCredentials
from lazysif.transport.redirects import InwardGuard

_CLIENT = "lazysif"
_LIFETIME_S = 60.0
"""Of a token that does not say (distribution specification, "Token Response Fields")."""
_SHORTEST_S, _LONGEST_S = 1.0, 3600.0
_MARGIN_SHARE = 0.2
_MAX_REPOSITORIES = 1000
_LARGEST_ANSWER = 256 << 10
_OPEN = Challenge("")
"""The host has answered without credentials."""
_MAYBE_HIDDEN = (403, 404)
"""What some registries say of a private repository instead of asking for credentials."""


class OciKeyring:
    """Credentials of all registries of one remote.

    Args:
        credentials: where secrets come from.
        serves: whether a host (with its port) is a registry of this remote.
        plain_http: the registries and their token services speak plain HTTP.
    """

    def __init__(
        self, credentials: OciCredentials, serves: Callable[[str], bool], *, plain_http: bool = False
    ) -> None:
        self._credentials = credentials
        self._serves = serves
        self._scheme = "http" if plain_http else "https"
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._repositories: OrderedDict[tuple[str, str], OciAuth] = OrderedDict()

    def for_url(self, url: str) -> httpx.Auth | None:
        """See `Keyring`: what is not the API of a registry of this remote (storage, a CDN) sees nothing."""
        parts = urlsplit(url)
        host, repository = parts.netloc.lower(), repository_in(url)
        if repository is None or parts.scheme != self._scheme or not self._serves(host):
            return None
        key = (host, repository)
        auth = self._repositories.get(key)
        if auth is None:
            known = self._hosts.setdefault(host, _Host(f"{parts.scheme}://{host}"))
            auth = self._repositories[key] = OciAuth(known, repository, self._credentials)
            _bound(self._repositories)
            _bound(self._hosts)
        self._repositories.move_to_end(key)
        return auth


def _bound(table: OrderedDict[Any, Any]) -> None:
    while len(table) > _MAX_REPOSITORIES:
        table.popitem(last=False)


class _Host:
    """What a registry's host has asked for; `lock` is held by the first request, until it is known."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = urlsplit(url).netloc
        self.guard = InwardGuard(url)
        self.lock = trio.Lock()
        self.challenge: Challenge | None = None
        self.asked = False


class OciAuth(httpx.Auth):
    """Credentials for one repository."""

    def __init__(self, host: _Host, repository: str, credentials: OciCredentials) -> None:
        self._host = host
        self._repository = repository
        self._credentials = credentials
        self._lock = trio.Lock()
        self._authorization: str | None = None
        self._until = float("-inf")

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The request, with what the registry has asked for.

        Raises:
            AccessDenied: the token service refuses; nothing that the registry asks for can be given.
            SourceUnavailable, SourceProtocolError: the token service cannot say, or not so that it is believed.
        """
        if self._host.challenge is None:
            async with self._host.lock:
                if self._host.challenge is None:
                    response = yield request
                    if response.status_code in _MAYBE_HIDDEN and await self._may_ask_host():
                        response = yield self._ping(request)
                        if response.status_code != 401:
                            self._host.challenge = _OPEN
                    elif response.status_code != 401:
                        self._host.challenge = _OPEN if response.status_code < 400 else None
                        return
                    if self._host.challenge is None:
                        self._host.challenge = self._asked(response)
        sent: str | None = None
        for attempt in (1, 2):
            async with self._lock:
                if self._authorization == sent or time.monotonic() >= self._until:
                    order = await self._order(request)
                    if order is None and attempt > 1 and self._authorization == sent:
                        return  # the same again would be refused again
                    while order is not None:
                        order = await self._learn(order, (yield order))
                sent = self._authorization
            if sent is not None:
                request.headers["Authorization"] = sent
            response = yield request
            if response.status_code != 401:
                return
            self._host.challenge = self._asked(response)

    async def _may_ask_host(self) -> bool:
        """Whether the host itself is to be asked what it wants: once, and where there are credentials to give."""
        asked, self._host.asked = self._host.asked, True
        return not asked and await self._credentials.find(self._host.host, self._repository) != ANONYMOUS

    def _ping(self, like: httpx.Request) -> httpx.Request:
        """Distribution specification, "Determining Support"."""
        return httpx.Request("GET", f"{self._host.url}/v2/", headers=_own(like), extensions=_timeouts(like))

    def _asked(self, response: httpx.Response) -> Challenge:
        """What a 401 asks for. Raises: AccessDenied: nothing that can be given."""
        response.stream = _Bounded(response, self._host.url)
        challenges = parse_challenges(response.headers.get("www-authenticate", ""))
        for scheme in ("bearer", "basic"):
            for challenge in challenges:
                if challenge.scheme == scheme:
                    return challenge
        raise AccessDenied(
            "the registry refuses access without saying what credentials it wants (401)",
            origin=self._host.url,
            hint=HINT,
            asks_credentials=True,
        )

    async def _order(self, request: httpx.Request) -> httpx.Request | None:
        """The request for a token; None where the credentials themselves are what the registry asks for."""
        challenge = self._host.challenge or _OPEN
        self._until = float("inf")
        if challenge is _OPEN:
            self._authorization = None
            return None
        credential = await self._credentials.find(self._host.host, self._repository)
        if challenge.scheme == "basic":
            self._authorization = credential.basic
            return None
        if credential.registry_token:
            self._authorization = f"Bearer {credential.registry_token}"
            return None
        realm = challenge.parameters.get("realm", "")
        await self._check_realm(realm)
        self._until = float("-inf")
        return self._token_request(challenge, realm, credential, request)

    async def _check_realm(self, realm: str) -> None:
        """A registry may not send passwords over plain HTTP, nor this node to its neighbours.

        Raises:
            SourceProtocolError.
        """
        try:
            parts = urlsplit(realm)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise self._refused("names no token service that can be asked")
        if parts.scheme == "http" and self._host.url.startswith("https:"):
            raise self._refused("names a token service without TLS")
        own = urlsplit(self._host.url).hostname or ""
        if not same_origin(realm, self._host.url) and _is_private(host) and not _is_private(own):
            raise self._refused("names a token service at a private address")
        await self._host.guard.check(realm)

    def _refused(self, why: str) -> SourceProtocolError:
        return SourceProtocolError(f"the registry {why}", origin=self._host.url)

    def _token_request(
        self, challenge: Challenge, realm: str, credential: Credential, like: httpx.Request
    ) -> httpx.Request:
        asked = {"service": challenge.parameters["service"]} if "service" in challenge.parameters else {}
        asked["scope"] = f"repository:{self._repository}:pull"
        headers, extensions = _own(like), _timeouts(like)
        if credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": _CLIENT,
            }
            return httpx.Request(
                "POST", realm, data={**form, **asked}, headers=headers, extensions=extensions
            )
        if credential.basic is not None:
            headers["Authorization"] = credential.basic
        joined = realm + ("&" if urlsplit(realm).query else "?") + urlencode(asked)
        return httpx.Request("GET", joined, headers=headers, extensions=extensions)

    async def _learn(self, order: httpx.Request, response: httpx.Response) -> httpx.Request | None:
        """Take the token in; another request where the token service knows only the other form.

        Raises:
            AccessDenied, SourceUnavailable, SourceProtocolError.
        """
        service = origin_of(str(order.url))
        head = AnswerHead(response.status_code, dict(response.headers), service)
        if head.status in (404, 405) and order.method == "POST":
            return self._as_get(order)
        if head.status in (400, 401, 403):
            raise AccessDenied(
                f"the registry's token service refuses these credentials, or there are none ({head.status})",
                origin=service,
                hint=HINT,
                asks_credentials=True,
            )
        if head.status != 200:
            error = refusal(head)
            error.about(origin=service)
            raise error
        response.stream = _Bounded(response, service)
        token, lifetime_s = _token(await response.aread(), service)
        self._authorization = f"Bearer {token}"
        self._until = time.monotonic() + lifetime_s * (1 - _MARGIN_SHARE)
        return None

    def _as_get(self, order: httpx.Request) -> httpx.Request:
        """Token services of before OAuth2 take the identity token as a password (go-containerregistry does so)."""
        form = dict(httpx.QueryParams(order.content.decode()))
        basic = Credential(_TOKEN_USER, form.pop("refresh_token")).basic or ""
        asked = {name: form[name] for name in ("service", "scope") if name in form}
        return httpx.Request(
            "GET",
            order.url.copy_merge_params(asked),
            headers={"User-Agent": order.headers.get("User-Agent", _CLIENT), "Authorization": basic},
            extensions=order.extensions,
        )


_TOKEN_USER = "<token>"


def _own(like: httpx.Request) -> dict[str, str]:
    """What a request of our own says of itself, as those do that the client has built."""
    said = {name: like.headers[name] for name in ("User-Agent",) if name in like.headers}
    return {**said, "Accept-Encoding": "identity"}


def _timeouts(like: httpx.Request) -> dict[str, Any]:
    """httpx knows the timeouts of requests that it has built itself, and none of others."""
    return {name: like.extensions[name] for name in ("timeout",) if name in like.extensions}


def _is_private(host: str) -> bool:
    """An address (not a name) that only this node, its link or its site has."""
    if is_inward(host):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


class _Bounded(httpx.AsyncByteStream):
    """An answer that httpx will read whole, with an end. Raises: SourceProtocolError."""

    def __init__(self, response: httpx.Response, origin: str) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._origin = origin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for chunk in self._stream:
            length += len(chunk)
            if length > _LARGEST_ANSWER:
                raise SourceProtocolError("too much is said where a token is asked for", origin=self._origin)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


def _token(body: bytes, service: str) -> tuple[str, float]:
    """The token and its lifetime in seconds. Raises: SourceProtocolError; no text repeats the answer."""
    try:
        said = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SourceProtocolError("the registry's token service gives no token", origin=service) from None
    token = said.token or said.access_token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SourceProtocolError("the registry's token service gives no token", origin=service)
    lifetime_s = _LIFETIME_S if said.expires_in is None else said.expires_in
    return token, min(max(lifetime_s, _SHORTEST_S), _LONGEST_S)
