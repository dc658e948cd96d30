"""The walk along redirects, the same for every transport: hop by hop, with the rules of `redirects`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from lazysif.core.names import origin_of, same_origin
from lazysif.errors import LazysifError, SourceProtocolError
from lazysif.model import AnswerHead, Request
from lazysif.transport.redirects import (
    MAX_REDIRECTS,
    REFUSALS,
    STATUSES,
    InwardGuard,
    Targets,
    redirect_target,
)


class Hop(Protocol):
    """An answer whose head has come."""

    @property
    def head(self) -> AnswerHead: ...

    async def aclose(self) -> None:
        """Let go of it, read or not."""
        ...


H = TypeVar("H", bound=Hop)


class Redirects:
    """Those of one remote.

    Args: base_url, hosts, proxied: see `InwardGuard`.
    """

    def __init__(self, base_url: str, hosts: Sequence[str] | None = None, *, proxied: bool = False) -> None:
        self.guard = InwardGuard(base_url, hosts, proxied=proxied)
        self._targets = Targets()
        self._sending_on: set[str] = set()

    def sends_on(self, url: str) -> bool:
        """Whether the origin of a URL has sent a request on to another before."""
        return origin_of(url) in self._sending_on

    async def follow(self, request: Request, send_once: Callable[[str, Request], Awaitable[H]]) -> H:
        """The final answer; a target that was kept and refuses is asked for anew, once.

        Args: send_once: sends the request to a URL, with the credentials that belong there.

        Raises:
            SourceProtocolError: too many hops, or one that may not be taken; and what `send_once` raises.
        """
        if request.byte_range is not None and not request.anew:
            target = self._targets.get(request.url)
            if target is not None:
                answer = await self._from_target(target, request, send_once)
                if answer is not None:
                    return answer
        return await self._hops(request.url, request, send_once, MAX_REDIRECTS)

    async def _from_target(
        self, target: str, request: Request, send_once: Callable[[str, Request], Awaitable[H]]
    ) -> H | None:
        try:
            answer = await self._hops(target, request, send_once, MAX_REDIRECTS - 1)
        except BaseException:
            self._targets.drop(request.url)
            raise
        if answer.head.status not in REFUSALS:
            return answer
        self._targets.drop(request.url)
        await answer.aclose()
        return None

    async def _hops(
        self, url: str, request: Request, send_once: Callable[[str, Request], Awaitable[H]], most: int
    ) -> H:
        for _ in range(most + 1):
            await self.guard.check(url)
            try:
                answer = await send_once(url, request)
            except LazysifError as error:
                _name_both(error, url, request)
                raise
            location = answer.head.headers.get("location", "")
            if answer.head.status not in STATUSES or not location:
                return answer
            await answer.aclose()
            target = redirect_target(url, location)
            if not same_origin(url, target):
                self._sending_on.add(origin_of(url))
            if url == request.url and request.byte_range is not None:
                self._targets.keep(url, target, answer.head)
            url = target
        raise SourceProtocolError(f"more than {MAX_REDIRECTS} redirects", origin=origin_of(request.url))


def _name_both(error: LazysifError, url: str, request: Request) -> None:
    """People know the origin that they configured, and need the host that it sent the request on to."""
    if url != request.url:
        error.why += f" (sent on to {(urlsplit(origin_of(url)).netloc or 'no host')[:80]})"
        error.origin = origin_of(request.url)
