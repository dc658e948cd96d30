"""The blocks of one image in the cache: the block table says which digest a block has, the cache has its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from blake3 import blake3

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.block_table import BlockTable
from lazysif.core.block_map import BlockMap, length
from lazysif.model import Buffer, Digest, Hashed
from lazysif.telemetry import Counters


class ImageBlocks:
    """What the cache has of one image. All on the trio thread."""

    def __init__(self, block_map: BlockMap, table: BlockTable, cache: BlockCache, counters: Counters) -> None:
        self.block_map = block_map
        self._table = table
        self._cache = cache
        self._counters = counters
        self._pinned: frozenset[int] = frozenset()

    # --- what is here -----------------------------------------------------------------------------

    def known(self, index: int) -> bool:
        """Whether the block is cached as far as the table knows: its frame may have been evicted since."""
        return self._table.get(index) is not None

    @property
    def complete(self) -> bool:
        """Whether every block has come; some may have gone again to make room."""
        return self._table.known == self.block_map.count

    def cached_bytes(self) -> int:
        """Bytes of the blocks whose content is known and, unless evicted since, cached."""
        return sum(length(self.block_map, i) for i in self._table.known_indices())

    async def lacking(self, blocks: Iterable[int]) -> list[int]:
        """Those of the blocks that are not cached, in order; the disk is asked, and what it lost is struck off.

        Blocks on their way are among them.
        """
        known = {i: digest for i in blocks if (digest := self._table.get(i)) is not None}
        gone = await self._cache.absent(list(known.values()))
        for index, digest in known.items():
            if digest in gone and self._table.get(index) == digest:
                self._table.forget(index)
        return [i for i in blocks if self._table.get(i) is None]

    # --- their bytes ------------------------------------------------------------------------------

    def in_memory(self, index: int) -> Buffer | None:
        """The bytes of a block, where they lie in memory. Takes a microsecond."""
        digest = self._table.get(index)
        return self._cache.lookup(digest) if digest is not None else None

    async def load(self, blocks: range) -> dict[int, Buffer]:
        """What memory and disk have of these blocks; frames that are gone are struck off the table."""
        found: dict[int, Buffer] = {}
        on_disk: dict[int, Digest] = {}
        for index in blocks:
            digest = self._table.get(index)
            if digest is None:
                continue
            data = self._cache.lookup(digest)
            if data is not None:
                found[index] = data
                self._counters.memory_hits += 1
            else:
                on_disk[index] = digest
        if on_disk:
            loaded = await self._cache.load(list(on_disk.values()))
            for index, digest in on_disk.items():
                data = loaded.get(digest)
                if data is None or len(data) != length(self.block_map, index):
                    if self._cache.readable and self._table.get(index) == digest:
                        self._table.forget(index)
                else:
                    found[index] = data
        self._counters.hits += len(found)
        return found

    def preload(self, blocks: Iterable[int], came: Callable[[int], None] | None = None) -> None:
        """Bring what the disk has of these blocks into memory, without waiting, in one job of the cache's threads.

        Args: came: told of each block when it is in memory; not of those that a reader waits for already.
        """
        wanted = {digest: i for i in blocks if (digest := self._table.get(i)) is not None}
        self._cache.preload(wanted, None if came is None else lambda digest, _: came(wanted[digest]))

    async def peek(self, blocks: range) -> list[Buffer] | None:
        """The content of these blocks from memory or disk, leaving memory as it is; None if one is missing."""
        digests = [digest for digest in map(self._table.get, blocks) if digest is not None]
        found = await self._cache.peek(digests)
        if len(digests) < len(blocks) or any(digest not in found for digest in digests):
            return None
        return [found[digest] for digest in digests]

    # --- what comes and goes ----------------------------------------------------------------------

    def put(self, index: int, data: Buffer, *, unread: bool = False) -> None:
        """A block has come: its digest goes into the table, its bytes to the cache.

        Args: unread: nobody reads it soon, so that it drives nothing out of memory.
        """
        digest = data.digest if isinstance(data, Hashed) else Digest(blake3(data).digest())
        self._cache.put(digest, data, pinned=index in self._pinned, unread=unread)
        self._table.set(index, digest)

    async def room(self, size_bytes: int = 1) -> None:
        """Wait while too much is on its way to the disk."""
        await self._cache.wait_room(size_bytes)

    def pin(self, blocks: Iterable[int]) -> None:
        """Keep these blocks from eviction: those that are here now, and the others when they come."""
        self._pinned = frozenset(blocks)
        known = (self._table.get(i) for i in self._pinned)
        self._cache.pin([digest for digest in known if digest is not None])

    def forget_all(self) -> None:
        """Strike all blocks off the table."""
        for index in self._table.known_indices():
            self._table.forget(index)
