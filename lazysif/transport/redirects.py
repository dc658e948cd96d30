"""Redirects, the same for every transport: where they may lead, and how long a target is used without asking.

Registries send each GET of a blob on to storage with a signed URL: asked for anew by each request it would
double the round trips of every read, so a target is kept while its signature holds.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from urllib.parse import urljoin, urlsplit

import trio

from lazysif.core.locations import signed_until_s
from lazysif.core.names import is_inward, is_named_host, origin_of, same_origin
from lazysif.errors import SourceProtocolError
from lazysif.model import AnswerHead

MAX_REDIRECTS = 5
STATUSES = (301, 302, 303, 307, 308)
REFUSALS = (400, 401, 403, 404, 410)
"""What an expired or moved target answers: 400 is S3's for an expired token (ExpiredToken)."""
_MAX_HOSTS = 100
_RESOLVED_S = 60.0
_MAX_TARGETS = 1000
_KEPT_S = 60.0
"""A target whose URL does not say how long it holds: a redirector that spreads load is asked once a minute."""
_LONGEST_S = 3600.0
_MARGIN_S = 30.0


def redirect_target(url: str, location: str) -> str:
    """The absolute URL that a `Location` header leads to.

    Raises: SourceProtocolError: not http(s), not a URL, or from HTTPS to plain HTTP.
    """
    try:
        joined = urljoin(url, location)
    except ValueError as error:
        raise SourceProtocolError(
            "the origin redirects to an address that cannot be used", origin=origin_of(url)
        ) from error
    if not joined.startswith(("http://", "https://")):
        raise SourceProtocolError("the origin redirects to something that is not HTTP", origin=origin_of(url))
    if url.startswith("https://") and joined.startswith("http://"):
        raise SourceProtocolError("the origin redirects from HTTPS to plain HTTP", origin=origin_of(url))
    return joined


class Targets:
    """Where URLs led lately. Holds signed URLs: never shown."""

    def __init__(self) -> None:
        self._targets: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def get(self, url: str) -> str | None:
        """The target that is used without asking; it may lead on."""
        until_s, target = self._targets.get(url, (0.0, ""))
        return target if time.time() < until_s else None

    def keep(self, url: str, target: str, head: AnswerHead) -> None:
        """Remember a redirect (RFC 9111: `no-store` and `no-cache` are obeyed) for as long as it may hold."""
        control = head.headers.get("cache-control", "").lower()
        if "no-store" in control or "no-cache" in control:
            return
        now = time.time()
        signed_s = signed_until_s(target)
        until_s = signed_s - _MARGIN_S if signed_s is not None else now + _KEPT_S
        self._targets[url] = min(until_s, now + _LONGEST_S), target
        self._targets.move_to_end(url)
        while len(self._targets) > _MAX_TARGETS:
            self._targets.popitem(last=False)

    def drop(self, url: str) -> None:
        """The target of this URL refused, or could not be reached."""
        self._targets.pop(url, None)


class InwardGuard:
    """An origin may not send this node to itself or to its neighbours on the link: it has services there that
    trust whoever asks (metadata of clouds, agents).

    Args:
        base_url: the configured address; its own host may be asked whatever it is, and if it is inward (a test,
            a tunnel) others may be, too. "" where there is none.
        hosts: where not None, no others are asked (`core.names.is_named_host`).
        proxied: a proxy connects and this node does not: what a name means here is of no matter, and may not
            even be known.
    """

    def __init__(self, base_url: str, hosts: Sequence[str] | None = None, *, proxied: bool = False) -> None:
        self._base_url = base_url
        self._hosts = hosts
        self._proxied = proxied
        self._base_host = urlsplit(base_url).hostname or ""
        self._known: dict[str, tuple[float, bool]] = {}

    async def check(self, url: str) -> None:
        """Raises: SourceProtocolError, for a URL that cannot be split, too."""
        if same_origin(url, self._base_url):
            return
        try:
            host = urlsplit(url).hostname or ""
        except ValueError as error:
            raise SourceProtocolError("the origin's address cannot be used", origin=origin_of(url)) from error
        if self._hosts is not None and not is_named_host(urlsplit(url).netloc, self._hosts):
            raise SourceProtocolError(
                "the origin redirects to a host that the configuration does not name",
                origin=origin_of(url),
                hint="add it to `hosts` of the remote if it may be asked",
            )
        if self._hosts is not None and is_inward(host):
            return  # by its own name: a pattern names none of these
        if host == self._base_host or not await self._is_inward(host):
            return
        if self._base_host and await self._is_inward(self._base_host):
            return
        raise SourceProtocolError(
            "the origin redirects to an address of this node or its link", origin=origin_of(url)
        )

    async def looks_closer(self, url: str) -> bool:
        """Whether a transport that can should look at the address itself once it is connected: what a name
        means may change between the check and the connection. Ask after `check`."""
        host = urlsplit(url).hostname or ""
        if self._proxied or same_origin(url, self._base_url) or host == self._base_host:
            return False
        if self._hosts is not None and is_inward(host):
            return False
        return not (self._base_host and await self._is_inward(self._base_host))

    async def _is_inward(self, host: str) -> bool:
        if is_inward(host):
            return True
        if self._proxied:
            return False
        now = trio.current_time()
        until, verdict = self._known.get(host, (0.0, False))
        if until < now:
            try:
                found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                return False  # the connection will fail and say why
            verdict = any(is_inward(str(address[0])) for *_, address in found)
            if len(self._known) > _MAX_HOSTS:
                self._known.clear()
            self._known[host] = now + _RESOLVED_S, verdict
        return verdict
