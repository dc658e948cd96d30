"""Whole downloads that a look-up began, kept open until the fetch of the image goes on with them.

Some origins count each GET of a file and refuse after so many (`Location.once`). Only an answer says its size, so
the look-up's answer is not thrown away: the image's first reader takes it over, and there is one GET in all.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lazysif.errors import LazysifError, SourceError
from lazysif.model import Answer, ImageId, Request, Transport

log = logging.getLogger(__name__)

_KEPT_S = 30.0
"""Between a look-up and the first read a job takes milliseconds; a worker of the origin waits meanwhile."""


class _Download:
    """One answer. The task that asked for it owns it, until it is `done`, or `decided` that nobody takes it."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.error: LazysifError | None = None
        self.came = trio.Event()
        self.taken = False
        self.decided = trio.Event()
        self.done = trio.Event()


class BegunAnswer:
    """The answer to a look-up's GET.

    Args: keep_for: set by the look-up to have it kept for that image.
    """

    def __init__(self, answer: Answer) -> None:
        self.head = answer.head
        self.keep_for: ImageId | None = None


class Begun:
    """Those of one remote.

    Args: nursery: of the daemon; answers are held in it.
    """

    def __init__(self, nursery: trio.Nursery, transport: Transport) -> None:
        self._nursery = nursery
        self._transport = transport
        self._kept: dict[ImageId, _Download] = {}

    @asynccontextmanager
    async def begin(self, request: Request) -> AsyncIterator[BegunAnswer]:
        """Send the request; its answer outlives the block where it is to be kept.

        Raises: as `model.Transport.send`.
        """
        download = _Download()
        self._nursery.start_soon(self._hold, request, download, name="begun download")
        kept = False
        try:
            await download.came.wait()
            if download.answer is None:
                raise (download.error or SourceError("internal error, see the log")).with_traceback(None)
            begun = BegunAnswer(download.answer)
            yield begun
            if begun.keep_for is not None:
                self._keep(begun.keep_for, download)
                kept = True
        finally:
            if not kept:
                download.decided.set()

    def _keep(self, image_id: ImageId, download: _Download) -> None:
        before = self._kept.pop(image_id, None)
        if before is not None:
            before.decided.set()
        self._kept[image_id] = download

    @asynccontextmanager
    async def take(self, image_id: ImageId) -> AsyncIterator[Answer | None]:
        """The answer that was kept for this image, for whoever comes first; None where there is none."""
        download = self._kept.pop(image_id, None)
        if download is None:
            yield None
            return
        download.taken = True
        download.decided.set()
        try:
            yield download.answer
        finally:
            download.done.set()

    async def _hold(self, request: Request, download: _Download) -> None:
        """Never raises an Exception: it runs in the daemon's nursery."""
        try:
            async with self._transport.send(request) as answer:
                download.answer = answer
                download.came.set()
                with trio.move_on_after(_KEPT_S):
                    await download.decided.wait()
                if download.taken:
                    await download.done.wait()
        except LazysifError as error:
            download.error = error
        except Exception:
            log.exception("a download failed in an unexpected way")
        finally:
            download.came.set()
            self._kept = {image_id: kept for image_id, kept in self._kept.items() if kept is not download}
