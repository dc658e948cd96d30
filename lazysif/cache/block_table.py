"""Block tables: (image, block index) → digest, for images whose digests are learned at first fetch.

A table belongs to the trio thread; `block_tables` holds those that are open, and `table_file` reads and writes what
they hold: it gets values and gives values back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lazysif.cache.table_file import DIGEST_BYTES, EMPTY_RECORD, RECORD_BYTES, binding, write_records
from lazysif.model import Digest, ImageId
from lazysif.telemetry import Counters

_UNKNOWN, _CLAIMED, _PROVEN = 0, 1, 2
_CLAIMS = bytes([_UNKNOWN]) + bytes([_CLAIMED]) * 255


@dataclass(frozen=True, slots=True)
class TableJob:
    """Records to be written to one file: what a thread needs, and nothing that changes under it."""

    table: BlockTable
    fresh: bool
    runs: list[tuple[int, bytes]]

    def write(self) -> bool:
        """Blocking; see `write_records`. Raises: OSError."""
        table = self.table
        return write_records(table.path, table.image_id, table.count, self.runs, fresh=self.fresh)


class BlockTable:
    """Digests of the blocks of one image.

    Args:
        image_id: 32 hexadecimal digits.
        count: of blocks.
        path: its file.
        records: what the file held (`read_records`), or None to start empty.
        counters: where refused records are counted.
        on_dirty: called when there is something to write again.
    """

    def __init__(
        self,
        image_id: ImageId,
        count: int,
        path: Path,
        records: bytearray | None,
        counters: Counters,
        on_dirty: Callable[[BlockTable], None],
    ) -> None:
        self.image_id = image_id
        self.count = count
        self.path = path
        self._image = bytes.fromhex(image_id)
        self._counters = counters
        self._on_dirty = on_dirty
        self._fresh = records is None
        self._records = records if records is not None else bytearray(count * RECORD_BYTES)
        self._state = bytearray(self._records[DIGEST_BYTES::RECORD_BYTES].translate(_CLAIMS))
        self._known = count - self._state.count(_UNKNOWN)
        self._dirty: set[int] = set()

    def __repr__(self) -> str:
        return f"<BlockTable {self.image_id} {self._known} of {self.count} blocks>"

    @property
    def known(self) -> int:
        """How many blocks have a digest; a record to be refused counts until it is asked for."""
        return self._known

    def known_indices(self) -> list[int]:
        """Indices of the blocks that `known` counts, rising."""
        return [index for index, state in enumerate(self._state) if state]

    def get(self, index: int) -> Digest | None:
        """The digest of a block, or None where it is not known or its record is refused.

        Raises:
            IndexError: no such block.
        """
        if not 0 <= index < self.count:
            raise IndexError(index)
        start = index * RECORD_BYTES
        if self._state[index] == _PROVEN:
            return Digest(bytes(self._records[start : start + DIGEST_BYTES]))
        record = bytes(self._records[start : start + RECORD_BYTES])
        if record == EMPTY_RECORD:
            return None
        digest = Digest(record[:DIGEST_BYTES])
        if record[DIGEST_BYTES:] != self._binding(index, digest):
            self._counters.table_records_refused += 1
            self.forget(index)
            return None
        self._known += self._state[index] == _UNKNOWN
        self._state[index] = _PROVEN
        return digest

    def set(self, index: int, digest: Digest) -> None:
        """Note a block's digest, to be written later.

        Raises:
            IndexError: no such block.
            ValueError: not a digest.
        """
        if not 0 <= index < self.count:
            raise IndexError(index)
        if len(digest) != DIGEST_BYTES:
            raise ValueError("a digest has 32 bytes")
        if self._state[index] == _PROVEN and self.get(index) == digest:
            return
        self._put(index, digest + self._binding(index, digest), _PROVEN)

    def forget(self, index: int) -> None:
        """Make a block unknown again.

        Raises:
            IndexError: no such block.
        """
        if not 0 <= index < self.count:
            raise IndexError(index)
        self._put(index, EMPTY_RECORD, _UNKNOWN)

    def take_dirty(self) -> TableJob | None:
        """What is to be written, which then counts as written; None where nothing is."""
        if not self._dirty:
            return None
        runs = [
            (run.start, bytes(self._records[run.start * RECORD_BYTES : run.stop * RECORD_BYTES]))
            for run in _runs(sorted(self._dirty))
        ]
        job = TableJob(self, self._fresh, runs)
        self._dirty.clear()
        self._fresh = False
        return job

    def give_back(self, job: TableJob, *, all_records: bool) -> None:
        """Mark as dirty again what was not written; `all_records` where the file was emptied."""
        if all_records:
            self._fresh = True
            self._dirty.update(self.known_indices())
        self._fresh = self._fresh or job.fresh
        for start, records in job.runs:
            self._dirty.update(range(start, start + len(records) // RECORD_BYTES))
        self._on_dirty(self)

    def set_again(self, index: int) -> None:
        """Have a block's record written anew: another one lies in its place."""
        if not self._dirty:
            self._on_dirty(self)
        self._dirty.add(index)

    def rewrite(self) -> None:
        """Have the whole file written anew: what lies there cannot be believed."""
        self._fresh = True
        self._dirty.update(self.known_indices())
        self._on_dirty(self)

    def _put(self, index: int, record: bytes, state: int) -> None:
        start = index * RECORD_BYTES
        self._records[start : start + RECORD_BYTES] = record
        self._known += (state != _UNKNOWN) - (self._state[index] != _UNKNOWN)
        self._state[index] = state
        if not self._dirty:
            self._on_dirty(self)
        self._dirty.add(index)

    def _binding(self, index: int, digest: Digest) -> bytes:
        return binding(self._image, index, digest)


def _runs(indices: list[int]) -> Iterator[range]:
    """Runs of neighbours in a rising list."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            yield range(indices[start], indices[i - 1] + 1)
            start = i
