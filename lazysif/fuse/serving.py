"""The time in which a daemon answers the kernel: until the mount is gone or a signal asks for the end."""

from __future__ import annotations

import json
import logging
import signal
import time

import trio

from lazysif import __version__
from lazysif.core.asked import words_of
from lazysif.fuse import session
from lazysif.telemetry import InHand

log = logging.getLogger(__name__)

READ_AHEAD_KB = 32
"""The kernel's guesses, kept small: ours know what is cached and what a request costs. With 32 it asks for what
squashfs and squashfuse read (up to 128 KiB at a time) and little more: a Python start touched 18.5 MB of an image
of 110 MB, 20.4 MB with the kernel's default of 128 and 32 MB with 1024, in the same time. A sequential reader of
cached blocks gets 1.0 GB/s, with 1024 it gets 1.1."""

_LAST_ANSWERS_S = 0.1


class Serving:
    """Args:
    connection: with a session attached to it.
    in_hand: what the keeper is told, for the next daemon.
    """

    def __init__(self, mountpoint: str, connection: session.KeptConnection, in_hand: InHand) -> None:
        self._mountpoint = mountpoint
        self._connection = connection
        self._in_hand = in_hand

    async def run(self, nursery: trio.Nursery) -> None:
        """Args: nursery: of the daemon; signs of life go on in it while the daemon ends."""
        with trio.CancelScope() as serving:
            nursery.start_soon(self._end_on_signal, serving)
            nursery.start_soon(self._tune)
            nursery.start_soon(self._show_life)
            await session.serve()
        log.info("no longer serving %s", self._mountpoint)

    async def _tune(self) -> None:
        """Set up the mount once it can answer."""
        await self._connection.taken_over.wait()
        session.tune(self._mountpoint, READ_AHEAD_KB)
        log.info("%s is served by version %s", self._mountpoint, __version__)

    async def _show_life(self) -> None:
        """The keeper replaces a daemon that says nothing, and tells the next one what this one had in hand."""
        while True:
            await trio.sleep(1.0)
            self._connection.asked.awake(time.monotonic())
            self._connection.say(b"alive " + json.dumps(words_of(self._in_hand.listed())).encode())

    async def _end_on_signal(self, serving: trio.CancelScope) -> None:
        """Take no more requests; those that are not answered soon are asked again of the next daemon."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("ending on signal %d", number)
                session.stop()
                serving.deadline = trio.current_time() + _LAST_ANSWERS_S
