"""The files of the tree: handles, reads and their deadlines, and what is shown of an image.

A file handle is its inode number, so that reads need nothing that was made at open.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from lazysif.core.asked import GivenUp, left_s
from lazysif.core.identity import ROOT_INODE
from lazysif.errors import DeadlineExceeded, ImageChanged, LazysifError, SourceUnavailable
from lazysif.image.open_image import OpenImage
from lazysif.model import Buffer, InodeNumber
from lazysif.telemetry import Counters
from lazysif.tree.deadlines import Deadlines
from lazysif.tree.inodes import Inodes
from lazysif.tree.open_images import OpenImages
from lazysif.tree.reading import Reading

_MAX_WAITING_READS = 800
"""Below the 1,000 handlers that run at once, so that stalled reads never keep look-ups waiting."""


class Files:
    """Args:
    read_timeout_s: within which every read ends, in data or an error.
    whole_file_timeout_s: the same for reads of a file that its origin only sends whole.
    doubt: is told of a remote and a path where a reader has met another version.
    """

    def __init__(
        self,
        inodes: Inodes,
        images: OpenImages,
        reading: Reading,
        deadlines: Deadlines,
        counters: Counters,
        *,
        read_timeout_s: float,
        whole_file_timeout_s: float,
        doubt: Callable[[str, str], None],
    ) -> None:
        self._inodes = inodes
        self._images = images
        self._reading = reading
        self._deadlines = deadlines
        self._counters = counters
        self._read_timeout_s = read_timeout_s
        self._whole_file_timeout_s = whole_file_timeout_s
        self._doubt = doubt
        self._given_up = GivenUp()
        self.waiting_reads = 0
        """Reads that are not answered from memory, under way now."""

    async def open(self, number: InodeNumber) -> None:
        """Count a handle of an image. Raises: StaleInode."""
        await self._deadlines.in_time("open", number, self._open, number)

    async def _open(self, number: InodeNumber) -> None:
        self._reading.opened(number, await self._images.open(await self._inodes.image(number)))

    async def release(self, number: InodeNumber) -> None:
        """A handle is closed."""
        image = await self._deadlines.in_time("release", number, self._inodes.image, number)
        self._images.release(image)
        self._reading.released(number)

    def read_now(self, number: InodeNumber, offset: int, size: int) -> Buffer | None:
        """The answer if it is at hand in memory, else None."""
        opened = self._reading.get(number)
        data = opened.read_now(offset, size) if opened is not None else None
        if data is not None:
            self._counters.read_requests += 1
            self._counters.served_bytes += len(data)
        return data

    def read_given(self, number: InodeNumber, offset: int, size: int) -> Buffer | None:
        """What lies in memory in one block, for who fills the page cache; it counts for nothing."""
        opened = self._reading.get(number)
        return opened.glance(offset, size) if opened is not None else None

    async def read(self, number: InodeNumber, offset: int, size: int) -> Buffer:
        """Exactly `min(size, EOF - offset)` bytes.

        Raises:
            ImageChanged, AccessDenied, SourceError, DeadlineExceeded, StaleInode.
        """
        self._counters.read_requests += 1
        since_s = self._deadlines.since("read", what := (number, offset, size))
        opened = self._reading.get(number)
        if opened is None:
            opened = await self._deadlines.in_time("read", what, self._reopen, number)
        timeout_s = self._read_timeout_s if opened.image.ranges else self._whole_file_timeout_s
        if self._given_up.covers(number, offset, size, time.monotonic()):
            return await self._read_cached(opened, what, DeadlineExceeded(f"no data within {timeout_s:g} s"))
        if self.waiting_reads >= _MAX_WAITING_READS:
            return await self._read_cached(
                opened, what, SourceUnavailable("too many reads wait for the origin")
            )
        self.waiting_reads += 1
        mark = self._deadlines.in_hand.enter("read", since_s, what)
        try:
            with trio.fail_after(left_s(timeout_s, time.monotonic() - since_s)):
                data = await opened.read(offset, size)
        except trio.TooSlowError:
            self._given_up.add(number, offset, size, time.monotonic())
            raise self._late(opened, timeout_s) from None
        except ImageChanged:
            self._counters.image_changes += 1
            self._doubt(opened.image.remote, opened.image.path)
            raise
        finally:
            self.waiting_reads -= 1
            self._deadlines.in_hand.leave(mark)
        self._counters.served_bytes += len(data)
        return data

    def _late(self, opened: OpenImage, timeout_s: float) -> DeadlineExceeded:
        """The error for a read whose time is over, which is counted and shown, too."""
        self._counters.reads_late += 1
        late = DeadlineExceeded(
            f"no data within {timeout_s:g} s",
            image=opened.image.name,
            origin=opened.image.location.origin,
        )
        opened.last_error = str(late)
        return late

    async def _reopen(self, number: InodeNumber) -> OpenImage:
        """The image of a handle that a predecessor gave out."""
        opened = await self._images.get(await self._inodes.image(number))
        self._reading.reads(number, opened)
        return opened

    async def _read_cached(
        self, opened: OpenImage, what: tuple[InodeNumber, int, int], refusal: LazysifError
    ) -> Buffer:
        """A read that may not wait for an origin: what is cached is served, the rest is refused."""
        data = await self._deadlines.in_time("read", what, opened.read_cached, *what[1:])
        if data is None:
            self._counters.reads_refused += 1
            refusal.about(image=opened.image.name, origin=opened.image.location.origin)
            raise refusal
        self._counters.served_bytes += len(data)
        return data

    async def extended_attributes(self, number: InodeNumber) -> dict[str, str]:
        """What `getfattr` shows of an image; {} for a directory (design section 10). Raises: StaleInode."""
        if number == ROOT_INODE:
            return {}
        meaning = self._inodes.get(number)
        if meaning is None:
            meaning = await self._deadlines.in_time("getxattr", number, self._inodes.restore, number)
        if meaning.image is None:
            return {}
        return _shown(await self._deadlines.in_time("getxattr", number, self._images.get, meaning.image))


def _shown(opened: OpenImage) -> dict[str, str]:
    image = opened.image
    percent = 100.0 * opened.blocks.cached_bytes() / image.size_bytes if image.size_bytes else 100.0
    return {
        "user.lazysif.cached_percent": f"{percent:.1f}",
        "user.lazysif.origin": image.location.origin,
        "user.lazysif.validator": f"{image.validator.kind.value} {image.validator.value}",
        "user.lazysif.last_error": opened.last_error,
        "user.lazysif.verified": opened.verdict or "no digest to check",
    }
