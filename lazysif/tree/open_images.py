"""The images that are open or were lately: one `OpenImage` for each version, shared by all its names and readers."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.core.block_map import GridMap
from lazysif.fetch.probe import FoundImage
from lazysif.fetch.remote import Remote
from lazysif.image.metadata import pin_tables
from lazysif.image.open_image import OpenImage
from lazysif.image.starts import Starts
from lazysif.image.verify import VerdictStore, Verifier
from lazysif.model import Image, ImageId
from lazysif.telemetry import Counters

log = logging.getLogger(__name__)

_KEPT_WITHOUT_HANDLES = 64
"""A block table takes 40 bytes a block: 3 MB for 9 GB, so that idle images are let go."""


class OpenImages:
    """Makes, shares and lets go of open images.

    Args:
        nursery: of the daemon; metadata is fetched in it, behind the open.
        starts: records and follows the starts of images; None: neither.
        verdicts: where verdicts on whole images are kept; None: none is checked.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        remotes: Callable[[str], Remote],
        cache: BlockCache,
        block_size: int,
        counters: Counters,
        starts: Starts | None = None,
        verdicts: VerdictStore | None = None,
    ) -> None:
        self._starts = starts
        self.verifier = Verifier(cache, verdicts, self.listed, counters) if verdicts is not None else None
        self._nursery = nursery
        self._remotes = remotes
        self._cache = cache
        self._block_size = block_size
        self._counters = counters
        self._images: OrderedDict[ImageId, OpenImage] = OrderedDict()
        self._handles: Counter[ImageId] = Counter()
        self._tables_asked: set[ImageId] = set()
        self._opening = trio.Lock()

    async def get(self, image: Image) -> OpenImage:
        """The open image of this version; makes it if need be (its block table is read in a thread)."""
        opened = self._images.get(image.id)
        if opened is None:
            async with self._opening:
                opened = self._images.get(image.id)
                if opened is None:
                    opened = await self._make(image)
                    self._images[image.id] = opened
                    self._let_go()
        self._images.move_to_end(image.id)
        return opened

    async def _make(self, image: Image) -> OpenImage:
        block_map = GridMap(image.size_bytes, self._block_size)
        table = await self._cache.open_table(image.id, block_map.count)
        fetcher = self._remotes(image.remote).fetcher
        opened = OpenImage(image, block_map, table, self._cache, fetcher, self._counters)
        if self._starts is not None:
            self._starts.attach(opened)
        if self.verifier is not None:
            await self.verifier.recall(opened)
        return opened

    async def keep(self, found: FoundImage) -> None:
        """Put the bytes that came with a probe where reads find them."""
        opened = await self.get(found.image)
        opened.keep(0, found.first_bytes)

    async def open(self, image: Image) -> OpenImage:
        """Count a handle; the first one starts the fetch of the image's tables."""
        opened = await self.get(image)
        self._handles[image.id] += 1
        if image.ranges and image.id not in self._tables_asked:
            self._tables_asked.add(image.id)
            if self._starts is not None:
                self._starts.prepare(opened)
            self._nursery.start_soon(self._pin_tables, opened, name=f"tables of {image.name}")
        return opened

    async def _pin_tables(self, opened: OpenImage) -> None:
        """A fault in what is only done for speed must not end the daemon's nursery, and every mount with it."""
        try:
            await pin_tables(opened)
        except Exception:
            log.exception("%s: tables are not fetched ahead", opened.image.name)
            self._counters.unexpected_errors += 1

    def release(self, image: Image) -> None:
        """Give a handle back. A handle of a predecessor's is given back without having been counted."""
        self._handles[image.id] -= 1
        if self._handles[image.id] <= 0:
            del self._handles[image.id]
        self._let_go()

    def _let_go(self) -> None:
        excess = len(self._images) - len(self._handles) - _KEPT_WITHOUT_HANDLES
        for image_id in list(self._images):
            if excess <= 0:
                return
            if image_id not in self._handles:
                del self._images[image_id]
                self._tables_asked.discard(image_id)
                if self._starts is not None:
                    self._starts.forget(image_id)
                excess -= 1

    def handles(self, image_id: ImageId) -> int:
        return self._handles[image_id]

    def listed(self) -> list[OpenImage]:
        """A copy, for status."""
        return list(self._images.values())
