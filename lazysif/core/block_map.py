"""Block maps: where the blocks of an image start and stop. Pure.

Two kinds behind one interface. `GridMap`: equal blocks, the last may be short. `IndexedMap`: boundaries known
beforehand, of any length. Nothing above `core` may assume equal lengths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from lazysif.model import ByteRange


class BlockMap(Protocol):
    """The list of an image's blocks: neighbours touch, the first starts at 0, the last stops at the size."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def count(self) -> int: ...

    def start(self, index: int) -> int:
        """Where block `index` starts; `start(count)` is the size. Raises IndexError outside `[0, count]`."""
        ...

    def index_at(self, offset: int) -> int:
        """The block that holds byte `offset`. Raises IndexError outside the image."""
        ...


@dataclass(frozen=True, slots=True)
class GridMap:
    """Equal blocks of `block_size` bytes."""

    size_bytes: int
    block_size: int

    def __post_init__(self) -> None:
        if self.size_bytes < 0 or self.block_size <= 0:
            raise ValueError(f"not a grid: {self.size_bytes} bytes in blocks of {self.block_size}")

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.block_size)

    def start(self, index: int) -> int:
        start = index * self.block_size
        if 0 <= start < self.size_bytes:
            return start
        if index != self.count:
            raise IndexError(index)
        return self.size_bytes

    def index_at(self, offset: int) -> int:
        if not 0 <= offset < self.size_bytes:
            raise IndexError(offset)
        return offset // self.block_size


@dataclass(frozen=True, slots=True)
class IndexedMap:
    """Blocks between known boundaries: `starts[i]` is where block i starts."""

    starts: Sequence[int]
    size_bytes: int

    def __post_init__(self) -> None:
        edges = [*self.starts, self.size_bytes]
        if edges[0] != 0 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError("block starts must rise from 0 and stay below the size")

    @property
    def count(self) -> int:
        return len(self.starts)

    def start(self, index: int) -> int:
        if not 0 <= index <= len(self.starts):
            raise IndexError(index)
        return self.starts[index] if index < len(self.starts) else self.size_bytes

    def index_at(self, offset: int) -> int:
        if not 0 <= offset < self.size_bytes:
            raise IndexError(offset)
        return bisect_right(self.starts, offset) - 1


def length(block_map: BlockMap, index: int) -> int:
    """Bytes in block `index`."""
    return block_map.start(index + 1) - block_map.start(index)


def span(block_map: BlockMap, offset: int, size: int) -> range:
    """Indices of the blocks that hold `[offset, offset + size)`, cut at the image's end; may be empty."""
    stop = min(offset + size, block_map.size_bytes)
    if offset >= stop:
        return range(0)
    return range(block_map.index_at(offset), block_map.index_at(stop - 1) + 1)


def extent_range(block_map: BlockMap, blocks: range) -> ByteRange:
    """The bytes of a run of neighbouring blocks."""
    return ByteRange(block_map.start(blocks.start), block_map.start(blocks.stop))
