"""The memory tier: blocks that came a moment ago, first in, first out, bounded in bytes.

A read does not renew a block: the kernel keeps what it was given, and what counts here are blocks that were brought
ahead of their readers. When reads did renew them, some of what a trace had brought for a heavy import was gone again
before it was read, and came back from disk while the job waited (450 of 4,800 look-ups).

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
        """The content, if it is here."""
        return self._blocks.get(digest)

    def put(self, digest: Digest, data: Buffer) -> None:
        """Keep `data`, dropping what has been here longest; what comes again counts anew."""
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
