"""Whether the origin of a remote can be reached, told by the requests that are sent anyway.

An origin is *offline* from the first request that timed out, or from the second that found no connection, until
one is answered. Of a remote with several hosts (registries that users choose from) one that is silent says nothing
while another has answered lately. While an origin is offline, one request at a time tries, after pauses that grow and
are jittered; who else needs it waits for that one. Any status is an answer: an origin that says 503 is there.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import trio

from lazysif.errors import LazysifError, SourceTimeout, SourceUnavailable
from lazysif.model import Answer, AnswerHead, ByteRange, Request, Transport

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_FIRST_PATIENCE_S = 2.0
"""How long the one that tries waits for an answer; doubles, so that an origin that is only slow comes back, too."""
_DOUBTFUL_S = 1.0
_CHECK_S = 15.0
"""While nobody needs an origin that is offline, it is asked this often whether it is back."""
_OTHERS_S = 60.0
_MAX_HOSTS = 100


class OthersServe(SourceUnavailable):
    """One way to the origin failed, and others serve its bytes: it does not count as offline."""


class Contact:
    """Args: name: the remote's, for the log."""

    def __init__(self, name: str = "") -> None:
        self._name = name or "the remote"
        self._failures = 0
        self._answered_at = float("-inf")
        self._heard: dict[str, float] = {}
        """By host, when it has answered last."""
        self._under_way: dict[object, float] = {}
        self._trying = False
        self._next_try = 0.0
        self._tries = 0
        self._changed = trio.Event()
        self._error: SourceUnavailable | None = None
        self.offline_since: float | None = None
        """Wall clock, or None while it answers."""
        self.last_error = ""

    @property
    def offline(self) -> bool:
        return self.offline_since is not None

    @property
    def doubtful(self) -> bool:
        """Offline, or silent for a second with requests under way."""
        if self.offline:
            return True
        if not self._under_way:
            return False
        asked_at = next(iter(self._under_way.values()))
        return trio.current_time() - max(asked_at, self._answered_at) > _DOUBTFUL_S

    # --- what requests tell -----------------------------------------------------------------------

    def begin(self) -> object:
        """A request is sent; give what this returns to `end`."""
        mark = object()
        self._under_way[mark] = trio.current_time()
        return mark

    def end(self, mark: object) -> None:
        self._under_way.pop(mark, None)

    def answered(self, host: str = "") -> None:
        self._answered_at = trio.current_time()
        if len(self._heard) >= _MAX_HOSTS and host not in self._heard:
            self._heard.clear()
        self._heard[host] = self._answered_at
        self._failures = 0
        if self.offline_since is not None:
            log.warning(
                "the origin of %s answers again after %.1f s", self._name, time.time() - self.offline_since
            )
            self.offline_since = None
            self._error = None
            self._tries = 0
            self._wake()

    def failed(self, silent_from: float, error: SourceUnavailable, host: str = "") -> None:
        """No connection, or silence since then. What others were answered in the meantime counts for more."""
        self.last_error = str(error)
        now = trio.current_time()
        if silent_from < self._answered_at or self._hears_another(host):
            return
        self._error = error
        self._failures += 2 if isinstance(error, SourceTimeout) else 1
        if self._failures < 2:
            return
        if self.offline_since is None:
            self.offline_since = time.time()
            log.warning("the origin of %s is offline: %s", self._name, error)
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._tries, 10), _LONGEST_PAUSE_S)
        self._next_try = now + pause_s * (0.5 + random.random() / 2)
        self._tries += 1
        self._wake()

    def _hears_another(self, host: str) -> bool:
        """A user who asks for a registry that is not there must not make the others look gone."""
        since = trio.current_time() - _OTHERS_S
        return bool(host) and any(heard > since for other, heard in self._heard.items() if other != host)

    async def went_offline(self) -> None:
        """Wait until it is offline."""
        while not self.offline:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what askers ask --------------------------------------------------------------------------

    def error(self) -> SourceUnavailable:
        """A new error that says what ails the origin; which URL was wanted is known to who asks."""
        if isinstance(self._error, SourceTimeout):
            return SourceTimeout(f"the origin is offline: {self._error.why}")
        why = self._error.why if self._error is not None else "it says nothing"
        return SourceUnavailable(f"the origin is offline: {why}")

    @property
    def may_try(self) -> bool:
        """Whether `turn` would not wait."""
        return not self.offline or (not self._trying and trio.current_time() >= self._next_try)

    @asynccontextmanager
    async def turn(self, wait_s: float, stall_s: float) -> AsyncIterator[float]:
        """Hold the right to send one request; yields how much silence it may bear.

        At once while the origin answers; while it is offline to one holder at a time.

        Raises:
            SourceUnavailable: it stayed offline for `wait_s`.
        """
        deadline = trio.current_time() + wait_s
        while self.offline and not self.may_try:
            if trio.current_time() >= deadline:
                raise self.error()
            changed = self._changed
            with trio.move_on_at(deadline if self._trying else min(deadline, self._next_try)):
                await changed.wait()
        if not self.offline:
            yield stall_s
            return
        self._trying = True
        try:
            yield min(stall_s, _FIRST_PATIENCE_S * 2 ** min(self._tries, 10))
        finally:
            self._trying = False
            self._wake()


class WatchedTransport:
    """A transport that tells a contact how each request went."""

    def __init__(self, transport: Transport, contact: Contact) -> None:
        self._transport = transport
        self._contact = contact
        self._failed_url = ""

    async def watch(self, stall_s: float) -> None:
        """Ask an origin that is offline from time to time, with all patience, so that it comes back by itself.

        It is asked for what it did not answer, since one that only lacks some of its disks answers the rest.
        """
        while True:
            await self._contact.went_offline()
            await trio.sleep(_CHECK_S * (0.5 + random.random() / 2))
            if not self._contact.offline or not self._failed_url:
                continue
            try:
                request = Request(
                    self._failed_url, byte_range=ByteRange(0, 1), stall_s=stall_s, total_s=2 * stall_s
                )
                async with self.send(request):
                    pass
            except LazysifError as error:
                log.debug("still offline: %s", error)
            except Exception:
                log.exception("asking an origin that is offline failed in an unexpected way")

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        """See `model.Transport.send`."""
        mark = self._contact.begin()
        host = urlsplit(request.url).netloc
        began = trio.current_time()
        reached = False
        try:
            async with self._transport.send(request) as answer:
                reached = True
                watched = _WatchedAnswer(answer, self._contact, host)
                try:
                    yield watched
                except LazysifError:
                    if not watched.silent:
                        self._contact.answered(host)
                    raise
                if not watched.silent:
                    self._contact.answered(host)
        except SourceUnavailable as error:
            if not reached and not isinstance(error, OthersServe):
                self._contact.failed(began, error, host)
            if not request.once:
                self._failed_url = request.url
            raise
        except LazysifError:
            if not reached:
                self._contact.answered(host)  # what cannot be believed came from somebody
            raise
        finally:
            self._contact.end(mark)

    async def aclose(self) -> None:
        await self._transport.aclose()


class _WatchedAnswer:
    def __init__(self, answer: Answer, contact: Contact, host: str) -> None:
        self._answer = answer
        self._contact = contact
        self._host = host
        self.silent = False

    @property
    def head(self) -> AnswerHead:
        return self._answer.head

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See `model.Answer.chunks`."""
        heard_at = trio.current_time()
        try:
            async with aclosing(self._answer.chunks()) as pieces:
                async for chunk in pieces:
                    self._contact.answered(self._host)
                    heard_at = trio.current_time()
                    yield chunk
        except SourceTimeout as error:
            self.silent = True
            self._contact.failed(heard_at, error, self._host)
            raise
