"""Sends a request that is late a second time, and takes the answer that comes first.

Each of the two runs in a task of the daemon's nursery: nobody cancels a request (docs/concurrency.md), so the one
that loses goes on to its head, and is then let go of. The second goes another way where there is one
(`fetch.routes`), else by another connection: the first one's is busy.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from lazysif.core.hedge import Tail
from lazysif.errors import LazysifError
from lazysif.model import Answer, Request, Transport
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_OURS_S = 0.002
"""A timer that fires so much too late says that this process waits for its processor, and the answer may with it."""
_MOST_WAITS = 10
"""After so many in a row a daemon that is always late sends a late request again all the same."""


class _Race:
    """Up to two attempts at one request."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.winner = 0
        self.errors: list[Exception] = []
        self.attempts = 0
        self.decided = trio.Event()
        self.left = trio.Event()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        if len(self.errors) == self.attempts:
            self.decided.set()


class Hedge:
    """Args:
    nursery: of the daemon; attempts run in it.
    """

    def __init__(self, nursery: trio.Nursery, transport: Transport, counters: Counters) -> None:
        self._nursery = nursery
        self._transport = transport
        self._counters = counters
        self._tail = Tail()

    @asynccontextmanager
    async def send(self, request: Request, *, in_haste: bool) -> AsyncIterator[Answer]:
        """As `model.Transport.send`; sent once more where somebody waits (`in_haste`) and it is late.

        Raises: as `model.Transport.send`.
        """
        size_bytes = request.byte_range.length if request.byte_range is not None else 0
        began = trio.current_time()
        patience_s = self._tail.patience_s(size_bytes) if in_haste and size_bytes else None
        if patience_s is None or patience_s >= request.stall_s:
            async with self._transport.send(request) as answer:
                self._note(request, size_bytes, began)
                yield answer
            return
        race = _Race()
        try:
            await self._run(race, request, size_bytes, patience_s)
            if race.answer is None:
                raise race.errors[0].with_traceback(None)
            self._note(request, size_bytes, began)
            yield race.answer
        finally:
            race.left.set()

    async def _run(self, race: _Race, request: Request, size_bytes: int, patience_s: float) -> None:
        """Wait for an answer, or the failure of all attempts.

        Time in which this process itself was late does not count: the answer may have come, and wait with it.
        """
        self._begin(race, request)
        for _ in range(_MOST_WAITS):
            deadline = trio.current_time() + patience_s
            with trio.move_on_at(deadline):
                await race.decided.wait()
            if race.decided.is_set() or trio.current_time() - deadline < _OURS_S:
                break
        if not race.decided.is_set() and self._tail.spend(size_bytes):
            self._counters.hedged_requests += 1
            self._begin(race, request)
        await race.decided.wait()
        if race.winner > 1:
            self._counters.hedges_won += 1

    def _begin(self, race: _Race, request: Request) -> None:
        race.attempts += 1
        number = race.attempts
        asked = replace(request, again=number > 1)
        self._nursery.start_soon(self._attempt, race, asked, number, name=f"attempt {number}")

    async def _attempt(self, race: _Race, request: Request, number: int) -> None:
        """Never raises an Exception: it runs in the daemon's nursery."""
        try:
            async with self._transport.send(request) as answer:
                if race.decided.is_set() or race.left.is_set():
                    return
                race.answer, race.winner = answer, number
                race.decided.set()
                await race.left.wait()
        except LazysifError as error:
            race.failed(error)
        except Exception as error:
            log.exception("an attempt failed in an unexpected way")
            race.failed(error)

    def _note(self, request: Request, size_bytes: int, began: float) -> None:
        if size_bytes:
            self._tail.note(size_bytes, trio.current_time() - began)
