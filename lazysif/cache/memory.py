"""The memory tier: blocks used a moment ago, least recently used first out, bounded in bytes.

Used on the trio thread only. A block that is larger than the bound is not kept.
"""

from __future__ import annotations

from collections import OrderedDict

from lazysif.model import Buffer, Digest


class MemoryTier:
    """digest → content.

    Args:
        limit_bytes: the most that the contents may take together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._blocks: OrderedDict[Digest, Buffer] = OrderedDict()

    def __repr__(self) -> str:
        return f"<MemoryTier {len(self._blocks)} blocks, {self.used_bytes} of {self.limit_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, digest: Digest) -> Buffer | None:
        """The content, which then counts as just used."""
        data = self._blocks.get(digest)
        if data is not None:
            self._blocks.move_to_end(digest)
        return data

    def put(self, digest: Digest, data: Buffer) -> None:
        """Keep `data`, dropping what was used least recently."""
        if digest in self._blocks:
            self._blocks.move_to_end(digest)
            return
        if len(data) > self.limit_bytes:
            return
        self._blocks[digest] = data
        self.used_bytes += len(data)
        while self.used_bytes > self.limit_bytes:
            _, dropped = self._blocks.popitem(last=False)
            self.used_bytes -= len(dropped)

    def clear(self) -> None:
        self._blocks.clear()
        self.used_bytes = 0
