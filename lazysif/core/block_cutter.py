"""Cuts a stream of chunks, as they come, into the blocks of a run. Pure."""

from __future__ import annotations

from lazysif.core.block_map import BlockMap, length
from lazysif.errors import SourceProtocolError
from lazysif.model import Buffer


class BlockCutter:
    """Cuts one answer into blocks.

    Args: blocks: those that the answer's bytes are, in this order.
    """

    def __init__(self, block_map: BlockMap, blocks: range) -> None:
        self._block_map = block_map
        self._blocks = iter(blocks)
        self._index: int | None = None
        self._lacking = 0
        self._pieces: list[memoryview] = []
        self._next_block()

    @property
    def complete(self) -> bool:
        return self._index is None

    def _next_block(self) -> None:
        self._index = next(self._blocks, None)
        self._pieces = []
        if self._index is not None:
            self._lacking = length(self._block_map, self._index)

    def feed(self, chunk: bytes) -> list[tuple[int, Buffer]]:
        """The blocks that this chunk completes. Raises SourceProtocolError for bytes after the last block."""
        done: list[tuple[int, Buffer]] = []
        rest = memoryview(chunk)
        while len(rest):
            if self._index is None:
                raise SourceProtocolError("the origin sent more bytes than it was asked for")
            piece, rest = rest[: self._lacking], rest[self._lacking :]
            self._pieces.append(piece)
            self._lacking -= len(piece)
            if not self._lacking:
                # a block that lies in one chunk is not copied here
                one = chunk if len(piece) == len(chunk) else piece
                done.append((self._index, one if len(self._pieces) == 1 else b"".join(self._pieces)))
                self._next_block()
        return done
