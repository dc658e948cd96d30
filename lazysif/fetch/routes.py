"""Which way a request goes, where there are several: mirrors, proxies, the origin itself.

Ways stand in groups. The first group is preferred; in a group each stripe of an image belongs to one way by
rendezvous hashing, so that equal site caches hold a share each. A way that fails hands the request to the next,
and is left alone for a while (`fetch.way`).

The remote's own URL says what a name means: look-ups go there, and to mirrors only where it cannot be reached and
nothing is known of the name. Data goes in the order of the groups; a way whose answer is not of the version that
was asked for is not used for that image for a while.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from lazysif.core import mirrors
from lazysif.core.content_range import (
    check_range_answer,
    check_whole_answer,
    refusal,
    same_version_headers,
)
from lazysif.core.names import origin_of
from lazysif.core.rendezvous import STRIPE_BYTES, ranked
from lazysif.errors import AccessDenied, ImageChanged, LazysifError, SourceUnavailable
from lazysif.fetch.contact import OthersServe
from lazysif.fetch.routed_answer import Reworded, RoutedAnswer
from lazysif.fetch.way import Way
from lazysif.model import Answer, AnswerHead, Image, ImageId, Request, Validator
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_CONNECT_S = 3.0
"""For a way that others can stand in for; the last one has the usual patience."""
_APART_S = 60.0
_MOST_IMAGES = 10_000
_TROUBLED = (407, 429, 502, 503, 504)
"""Statuses of a proxy or a mirror that ails, or whose own origin does."""
_FRESH: Mapping[str, str] = {"Cache-Control": "max-age=1"}
"""What a name means is not to be told out of an old copy (RFC 9111 section 5.2.1.1); one second of age lets a cache
serve a herd with one question. Caches that were not told to obey it have their own rules (docs/site-cache.md)."""


class Routes:
    """A transport that chooses among ways; see the module.

    Args:
        base_url: the remote's own, "" where no way is a mirror.
        groups: in order of preference; one of the ways at least is no mirror.
        pieces: the ways of a group share each image; else they share the images, as caches that keep whole files
            should.
    """

    def __init__(
        self, base_url: str, groups: Sequence[Sequence[Way]], counters: Counters, *, pieces: bool = True
    ) -> None:
        self.base_url = base_url
        self._groups = groups
        self._counters = counters
        self.ways = [way for group in groups for way in group]
        self._guards: OrderedDict[tuple[ImageId, str], Validator] = OrderedDict()
        self._apart: OrderedDict[tuple[ImageId, str], float] = OrderedDict()
        self.stripe_bytes = STRIPE_BYTES if pieces and any(len(group) > 1 for group in groups) else 0
        """Where extents are to be cut, so that each lies in one way's share; 0 for nowhere."""
        self.has_mirrors = any(way.mirror is not None for way in self.ways)

    # --- order ------------------------------------------------------------------------------------

    def _order(self, request: Request) -> list[Way]:
        """All ways that may serve it: those that are ready first, then the others as a last resort."""
        start = request.byte_range.start if request.byte_range is not None else 0
        key = f"{origin_of(request.url)}\0{start // self.stripe_bytes if self.stripe_bytes else 0}"
        ranks = [group[i] for group in self._groups for i in ranked(key, [way.name for way in group])]
        ways = [way for way in ranks if self._url_at(way, request)]
        if request.image is None:
            own = [way for way in ways if way.mirror is None]
            # an older version at a mirror must not take the place of one that is known
            ways = own if _asks_again(request) else own + [way for way in ways if way.mirror is not None]
        else:
            ways = [way for way in ways if self._may_have(way, request.image)]
        ready = [way for way in ways if way.ready]
        if request.again:
            ready = ready[1:] + ready[:1]
        return ready + [way for way in ways if not way.ready]

    def _may_have(self, way: Way, image: Image) -> bool:
        """Whether the version can be asked for there, as far as is known."""
        if way.mirror is not None and not mirrors.can_mirror(image):
            return False
        return way.direct or trio.current_time() >= self._apart.get((image.id, way.name), float("-inf"))

    # --- sending ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        """See `model.Transport.send`."""
        deadline = trio.current_time() + request.total_s
        tries: list[_Try] = []
        ways = self._order(request)
        stood_for = self.has_mirrors and request.image is None and _asks_again(request)
        if stood_for and not ways[0].ready and self.stands_in(ways):
            # what is known can be served, and who opens it is not to wait for an origin that is gone
            raise OthersServe(f"{ways[0].name} is left alone after a failure")
        for number, way in enumerate(ways):
            left = len(ways) - number - 1 + stood_for
            attempt = _Try(way, _with_patience(request, deadline - trio.current_time(), left), way.begin())
            try:
                async with AsyncExitStack() as stack:
                    try:
                        answer = await self._ask(stack, attempt, final=number == len(ways) - 1)
                    except LazysifError as error:
                        attempt.error = error
                        tries.append(attempt)
                        if attempt.head is None:
                            way.failed(attempt.began, error)
                        continue
                    if attempt.error is None:
                        self._blame(tries)
                    routed = RoutedAnswer(answer, way, attempt.began, partial(self.stands_in, [way]))
                    yield routed
                    if not routed.broke:
                        way.worked(attempt.began)
                    return
            finally:
                way.end()
        told = _what_counts(tries)
        if isinstance(told, SourceUnavailable) and stood_for and self.stands_in(ways):
            raise OthersServe(told.why, origin=told.origin) from told
        raise told

    async def _ask(self, stack: AsyncExitStack, attempt: _Try, *, final: bool) -> Answer:
        """The answer that came this way; where nobody else can be asked (`final`), whatever it says.

        Raises: LazysifError where another way is to be tried.
        """
        way, request = attempt.way, attempt.request
        if request.image is None:
            return await self._ask_name(stack, attempt, final=final)
        if way.mirror is not None:
            return await self._ask_mirror(stack, attempt, way.mirror, request.image)
        answer = await stack.enter_async_context(way.transport.send(request))
        attempt.head = answer.head
        _refuse_proxy_login(way, answer.head)
        try:
            _check(answer.head, request, request.image)
        except LazysifError as error:
            attempt.error = error
            if not final:
                raise
        return answer

    async def _ask_name(self, stack: AsyncExitStack, attempt: _Try, *, final: bool) -> Answer:
        way, request = attempt.way, attempt.request
        headers = request.headers if way.direct else {**request.headers, **_FRESH}
        asked = replace(request, url=self._url_at(way, request), headers=headers)
        answer = await stack.enter_async_context(way.transport.send(asked))
        attempt.head = head = answer.head
        if way.mirror is not None:
            if head.status not in (200, 206):
                raise refusal(head)
            return Reworded(answer, mirrors.in_own_words(head, self.base_url, way.mirror))
        _refuse_proxy_login(way, head)
        if head.status in _TROUBLED or (head.status == 403 and way.forwarded):
            attempt.error = refusal(head)
            if not final:
                raise attempt.error
        return answer

    def _url_at(self, way: Way, request: Request) -> str:
        if way.mirror is None:
            return request.url
        return mirrors.on_mirror(request.url, self.base_url, way.mirror) or ""

    async def _ask_mirror(self, stack: AsyncExitStack, attempt: _Try, mirror: str, image: Image) -> Answer:
        """An answer of this very version, in the origin's words. Raises: LazysifError."""
        way = attempt.way
        request = replace(attempt.request, url=self._url_at(way, attempt.request))
        key = (image.id, way.name)
        guard = self._guards.get(key)
        held = image if guard is None else mirrors.held_to(image, guard)
        headers = {} if guard is not None and way.refuses_its_own else same_version_headers(held.condition)
        first = await stack.enter_async_context(AsyncExitStack())
        answer: Answer = await first.enter_async_context(
            way.transport.send(replace(request, headers=headers))
        )
        attempt.head = answer.head
        if answer.head.status == 412 and request.byte_range is not None:
            # it may be the same file under another ETag: its answer without a condition tells
            await first.aclose()
            answer = await stack.enter_async_context(way.transport.send(replace(request, headers={})))
            attempt.head = answer.head
            found = mirrors.agreed(answer.head, request.byte_range, image)
            if guard is not None and found != guard:
                raise ImageChanged("the mirror has another version than it had")
            way.refuses_its_own |= guard is not None
            _remember(self._guards, key, found)
            held = mirrors.held_to(image, found)
        _check(answer.head, request, held)
        return Reworded(answer, mirrors.as_the_origin_says(answer.head, image))

    def _blame(self, tries: list[_Try]) -> None:
        """Another way has answered: those that did not have themselves to blame, and not the origin."""
        self._counters.failovers += len(tries)
        for attempt in tries:
            way, image, head = attempt.way, attempt.request.image, attempt.head
            if head is None or attempt.error is None:
                continue
            if head.status in _TROUBLED:
                way.failed(attempt.began, attempt.error)
            elif image is not None and not way.direct:
                log.warning("%s is not used for %s: %s", way.name, image.name, attempt.error.why)
                self._counters.mirror_disagreements += 1
                _remember(self._apart, (image.id, way.name), trio.current_time() + _APART_S)

    def stands_in(self, ways: Sequence[Way]) -> bool:
        """Whether another than these takes requests."""
        return any(other.ready for other in self.ways if other not in ways)

    async def aclose(self) -> None:
        for transport in {id(way.transport): way.transport for way in self.ways}.values():
            await transport.aclose()

    def status(self) -> list[dict[str, Any]]:
        """How each way is, in order of preference; on any thread."""
        return [
            {"group": number, **way.status()} for number, group in enumerate(self._groups) for way in group
        ]


@dataclass(slots=True)
class _Try:
    """One request by one way; `head` where an answer came, `error` where that did not help."""

    way: Way
    request: Request
    began: float
    head: AnswerHead | None = None
    error: LazysifError | None = None


def _asks_again(request: Request) -> bool:
    """Whether a known version is asked about."""
    return any(name.startswith("If-") for name in request.headers)


def _with_patience(request: Request, left_s: float, others: int) -> Request:
    """The request as it is sent by a way that `others` can stand in for: none of them is to lack the time."""
    return replace(
        request,
        total_s=max(left_s, 0.1),
        stall_s=max(min(request.stall_s, left_s / (others + 1)), 0.1),
        connect_s=min(request.connect_s, _CONNECT_S) if others else request.connect_s,
    )


def _check(head: AnswerHead, request: Request, image: Image) -> None:
    if request.byte_range is None:
        check_whole_answer(head, image)
    else:
        check_range_answer(head, request.byte_range, image)


def _refuse_proxy_login(way: Way, head: AnswerHead) -> None:
    """A 407 is the proxy's own: whoever is asked last, it says nothing of the origin."""
    if head.status == 407 and way.forwarded:
        raise AccessDenied(
            "the proxy asks for credentials (407)",
            hint="check proxy_username and proxy_password_file of the remote",
        )


def _remember(known: OrderedDict[Any, Any], key: object, value: object) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _MOST_IMAGES:
        known.popitem(last=False)


def _what_counts(tries: list[_Try]) -> LazysifError:
    """The error to tell when nobody helped: what the origin says by whichever way, before that it is silent.

    What mirrors lack says nothing of the origin.
    """
    own = [attempt for attempt in tries if attempt.way.mirror is None]
    told = [attempt for attempt in own if attempt.head is not None] or own
    error = told[-1].error
    assert error is not None
    error.why = f"{told[-1].way.name}: {error.why}"
    return error
