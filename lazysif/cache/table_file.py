"""The file of a block table, and the functions that touch it: they block, and belong in threads.

`tables-v1/<image id>-<count>.table`, all in records of 40 bytes:

    record 0     magic and version 8, count 8 (little-endian), image id 16, first 8 bytes of BLAKE3 over these 32
    record 1+i   digest 32, binding 8: first 8 bytes of BLAKE3 over (image id, i, digest), lowest bit of byte 0 set

The binding makes a record believable only in its own place: damaged, swapped or foreign records are
refused, which is a miss. Losing a table costs refetches, never correctness, so nothing is synced. A record
of zeros is an unknown block; because of the bit that is always set, one byte of each record says at C
speed how many are known.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from lazysif.model import ImageId

TABLES = "tables-v1"
MAGIC = b"LZSTBL\0\x01"
RECORD_BYTES = 40
DIGEST_BYTES = 32
EMPTY_RECORD = bytes(RECORD_BYTES)
_HEADER = struct.Struct("<8sQ16s")
_INDEX = struct.Struct("<Q")
_IMAGE_ID = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,11})\.table")


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
                _write_at(fd, EMPTY_RECORD, (1 + index) * RECORD_BYTES)
                struck += 1
    finally:
        os.close(fd)
    return struck


def binding(image: bytes, index: int, digest: bytes) -> bytes:
    """What makes a record believable in its own place only."""
    check = blake3(image + _INDEX.pack(index) + digest).digest(8)
    return bytes([check[0] | 1]) + check[1:]


def write_records(
    path: Path, image_id: ImageId, count: int, runs: Iterable[tuple[int, bytes]], *, fresh: bool
) -> bool:
    """Write records to a table's file; False where the file was not there, so that all must be written again.

    Blocking.

    Args:
        runs: the index of the first block, and the records from there on.
        fresh: what lies there is not to be kept.

    Raises:
        OSError: the disk refused.
    """
    size_bytes = RECORD_BYTES * (1 + count)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
    fd = os.open(path, flags, 0o600)
    try:
        intact = fresh or os.fstat(fd).st_size == size_bytes
        if not intact:
            os.ftruncate(fd, 0)
        os.ftruncate(fd, size_bytes)
        for start, records in [(-1, _header(image_id, count)), *runs]:
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
