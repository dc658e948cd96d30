"""The images that the kernel reads, by the inode numbers under which it has them open."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Protocol

from lazysif.image.open_image import OpenImage
from lazysif.model import InodeNumber


class PagesAhead(Protocol):
    """Has the kernel read pieces of an image before a job does."""

    def give(self, number: InodeNumber, path: str, offset: int, size: int) -> bool:
        """Args: path: below the mountpoint. Returns False where that is not possible now."""

    def let_go(self, number: InodeNumber) -> None:
        """Nobody reads it any more."""


class Reading:
    """Args: pages: None where nothing is to be read ahead of a job."""

    def __init__(self, pages: PagesAhead | None = None) -> None:
        self._pages = pages
        self._images: dict[InodeNumber, OpenImage] = {}
        self._handles: Counter[InodeNumber] = Counter()
        self._paths: dict[InodeNumber, str] = {}

    def named(self, number: InodeNumber, path: str) -> None:
        """The kernel was told that a path below the mountpoint has this number."""
        if self._pages is not None:
            self._paths[number] = path

    def opened(self, number: InodeNumber, image: OpenImage) -> None:
        """One handle more."""
        self._handles[number] += 1
        self.reads(number, image)

    def reads(self, number: InodeNumber, image: OpenImage) -> None:
        """The kernel has it open, it may be since before this daemon. What it has of an image under another number
        is not given ahead."""
        self._images[number] = image
        self._give_to(number, image)

    def get(self, number: InodeNumber) -> OpenImage | None:
        return self._images.get(number)

    def released(self, number: InodeNumber) -> None:
        """One handle less; one of a predecessor's was not counted."""
        self._handles[number] -= 1
        if self._handles[number] <= 0:
            self._end(number)

    def forget(self, number: InodeNumber) -> None:
        """The kernel knows the number no more."""
        self._end(number)
        self._paths.pop(number, None)

    def _end(self, number: InodeNumber) -> None:
        self._handles.pop(number, None)
        image = self._images.pop(number, None)
        if image is None:
            return
        if self._pages is not None:
            self._pages.let_go(number)
        image.give_to(None)
        others = [other for other, shared in self._images.items() if shared is image]
        if others:
            self._give_to(others[-1], image)

    def _give_to(self, number: InodeNumber, image: OpenImage) -> None:
        path = self._paths.get(number)
        if self._pages is not None and path is not None:
            image.give_to(partial(self._pages.give, number, path))
