"""Block tables: (image, block index) → digest, for images whose digests are learned at first fetch.

One file an image, `tables-v1/<image id>-<count>.table`, all in records of 40 bytes:

    record 0     magic and version 8, count 8 (little-endian), image id 16, first 8 bytes of BLAKE3 over these 32
    record 1+i   digest 32, binding 8: first 8 bytes of BLAKE3 over (image id, i, digest), lowest bit of byte 0 set

The binding makes a record believable only in its own place: damaged, swapped or foreign records are
refused, which is a miss. Losing a table costs refetches, never correctness, so nothing is synced. A record
of zeros is an unknown block; because of the bit that is always set, one byte of each record says at C
speed how many are known.

A table belongs to the trio thread, and `block_tables` holds those that are open. The functions here that touch
its file block, and run elsewhere: they get values and give values back.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from lazysif.model import Digest, ImageId
from lazysif.telemetry import Counters

TABLES = "tables-v1"
MAGIC = b"LZSTBL\0\x01"
RECORD_BYTES = 40
DIGEST_BYTES = 32
_HEADER = struct.Struct("<8sQ16s")
_INDEX = struct.Struct("<Q")
_EMPTY = bytes(RECORD_BYTES)
_UNKNOWN, _CLAIMED, _PROVEN = 0, 1, 2
_CLAIMS = bytes([_UNKNOWN]) + bytes([_CLAIMED]) * 255
_IMAGE_ID = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,11})\.table")


@dataclass(frozen=True, slots=True)
class TableJob:
    """Records to be written to one file: what a thread needs, and nothing that changes under it."""

    table: BlockTable
    path: Path
    header: bytes
    size_bytes: int
    fresh: bool
    runs: list[tuple[int, bytes]]


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
        if record == _EMPTY:
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
        self._put(index, _EMPTY, _UNKNOWN)

    def take_dirty(self) -> TableJob | None:
        """What is to be written, which then counts as written; None where nothing is."""
        if not self._dirty:
            return None
        runs = [
            (run.start, bytes(self._records[run.start * RECORD_BYTES : run.stop * RECORD_BYTES]))
            for run in _runs(sorted(self._dirty))
        ]
        job = TableJob(self, self.path, self._header(), RECORD_BYTES * (1 + self.count), self._fresh, runs)
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

    def _header(self) -> bytes:
        return _header(self.image_id, self.count)


def read_records(path: Path, image_id: ImageId, count: int) -> bytearray | None:
    """The records of a table's file, or None where it is missing or its header or size are not as they
    must be.

    Blocking; never raises. The file counts as used today.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = RECORD_BYTES * (1 + count)
            if os.fstat(file.fileno()).st_size != size or file.read(RECORD_BYTES) != _header(image_id, count):
                return None
            records = bytearray(size - RECORD_BYTES)
            filled = file.readinto(records)
            _mark_used(file.fileno())
    except OSError:
        return None
    return records if filled == len(records) else None


def file_name(image_id: ImageId, count: int) -> str:
    """The name of a table's file. Raises: ValueError for what is not an image id."""
    if not _IMAGE_ID.fullmatch(image_id):
        raise ValueError(f"not an image id: {image_id!r}")
    return f"{image_id}-{count}.table"


def parse_name(name: str) -> tuple[ImageId, int] | None:
    """Image id and count of a table's file; None for the name of something else."""
    match = _FILE_NAME.fullmatch(name)
    return (ImageId(match[1]), int(match[2])) if match else None


def open_table(path: Path, image_id: ImageId, count: int) -> int | None:
    """A descriptor of a table's file, or None where its header or size are not as they must be.

    Unlike `read_records` it does not count as a use.

    Raises:
        OSError: the disk refused, or it is not a file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = RECORD_BYTES * (1 + count)
        sound = os.fstat(fd).st_size == size and os.pread(fd, RECORD_BYTES, 0) == _header(image_id, count)
    except BaseException:
        os.close(fd)
        raise
    if sound:
        return fd
    os.close(fd)
    return None


def strike_records(path: Path, records: Iterable[tuple[int, bytes]]) -> int:
    """Make records unknown that still say what they said; returns how many. Blocking.

    Raises:
        OSError: the disk refused.
    """
    struck = 0
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for index, record in records:
            if os.pread(fd, RECORD_BYTES, (1 + index) * RECORD_BYTES) == record:
                _write_at(fd, _EMPTY, (1 + index) * RECORD_BYTES)
                struck += 1
    finally:
        os.close(fd)
    return struck


def binding(image: bytes, index: int, digest: bytes) -> bytes:
    """What makes a record believable in its own place only."""
    check = blake3(image + _INDEX.pack(index) + digest).digest(8)
    return bytes([check[0] | 1]) + check[1:]


def write_job(job: TableJob) -> bool:
    """Write records to their file; False where the file was not there, so that all records must be written
    again.

    Blocking.

    Raises:
        OSError: the disk refused.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if job.fresh else 0)
    fd = os.open(job.path, flags, 0o600)
    try:
        intact = job.fresh or os.fstat(fd).st_size == job.size_bytes
        if not intact:
            os.ftruncate(fd, 0)
        os.ftruncate(fd, job.size_bytes)
        for start, records in [(-1, job.header), *job.runs]:
            _write_at(fd, records, (1 + start) * RECORD_BYTES)
    finally:
        os.close(fd)
    return intact


def _write_at(fd: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


def _mark_used(fd: int) -> None:
    try:
        os.utime(fd)
    except OSError:
        pass  # a read-only disk


def _header(image_id: ImageId, count: int) -> bytes:
    fields = _HEADER.pack(MAGIC, count, bytes.fromhex(image_id))
    return fields + blake3(fields).digest(8)


def _runs(indices: list[int]) -> Iterator[range]:
    """Runs of neighbours in a rising list."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1:
            yield range(indices[start], indices[i - 1] + 1)
            start = i
