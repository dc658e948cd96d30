"""The SIF header and its descriptors, read from an image's first bytes. Pure.

Source: apptainer/sif pkg/sif/{sif,descriptor,load,select}.go, release 2.24; integers little endian, packed.
The bytes come from anywhere: every number is bounded before it is used, and only FormatError is raised.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from enum import IntEnum

from lazysif.errors import FormatError
from lazysif.model import ByteRange

# launch script, magic, version, arch, UUID |
# created, modified, descriptors free, total, offset, size, data offset, size
_HEADER = struct.Struct("<32s10s3s3s16s8q")
# data type, used, id, group, link, offset, size, padded size, created, modified, uid, gid, name, extra
_DESCRIPTOR = struct.Struct("<iBIII7q128s384s")
_PARTITION = struct.Struct("<ii3s")
HEADER_BYTES = _HEADER.size
DESCRIPTOR_BYTES = _DESCRIPTOR.size

_MAGIC = b"SIF_MAGIC\0"
_MAGIC_OFFSET = 32
_VERSION = b"01\0"
_PARTITION_TYPE = 0x4004
_PRIMARY = 2
# Apptainer makes 48; 4096 of them are 2.4 MB of header.
MOST_DESCRIPTORS = 4096
_LARGEST = 2**63 - 1

_ARCHITECTURES = {
    b"00": "unknown",
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"07": "mips",
    b"08": "mipsle",
    b"09": "mips64",
    b"10": "mips64le",
    b"11": "s390x",
    b"12": "riscv64",
    b"13": "loong64",
}


class FilesystemType(IntEnum):
    """What a partition holds."""

    SQUASHFS = 1
    EXT3 = 2
    ARCHIVE = 3
    RAW = 4
    ENCRYPTED_SQUASHFS = 5
    GOCRYPTFS_SQUASHFS = 6


@dataclass(frozen=True, slots=True)
class SifHeader:
    """The global header: 128 bytes at 0.

    Args:
        arch: Go's name of the primary partition's architecture ("amd64"), or "unknown".
        descriptors: where their table lies in the image, or None where it has no entries.
        expected_size_bytes: of the whole file; an image that is shorter was cut off.
    """

    arch: str
    id: uuid.UUID
    created_s: int
    modified_s: int
    descriptor_count: int
    descriptors: ByteRange | None
    data_offset: int
    expected_size_bytes: int


@dataclass(frozen=True, slots=True)
class PrimaryPartition:
    """The root file system of the container. `filesystem` is a plain number where the type is not known."""

    filesystem: FilesystemType | int
    partition: ByteRange
    arch: str


def is_sif(data: bytes) -> bool:
    """Whether an image that starts with `data` claims to be a SIF."""
    return data[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_MAGIC)] == _MAGIC


def _arch(code: bytes) -> str:
    return _ARCHITECTURES.get(code[:2], "unknown")


def _sum(what: str, *parts: int) -> int:
    """The sum of numbers of a header. Raises FormatError: one is negative, or the sum is no file offset."""
    if any(part < 0 for part in parts) or sum(parts) > _LARGEST:
        raise FormatError(f"SIF header: {what} cannot be")
    return sum(parts)


def parse_header(data: bytes) -> SifHeader:
    """The header in the first `HEADER_BYTES` bytes of an image; what follows is not looked at.

    Raises:
        FormatError: too short, no SIF, another version, or numbers that cannot be.
    """
    if len(data) < HEADER_BYTES:
        raise FormatError(f"SIF header: {len(data)} of {HEADER_BYTES} bytes")
    if not is_sif(data):
        raise FormatError("SIF header: magic is missing")
    _, _, version, arch, raw_id, created, modified, free, total, table, table_size, start, size = (
        _HEADER.unpack_from(data)
    )
    if version != _VERSION:
        raise FormatError(f"SIF header: version {version!r} is not known")
    if not 0 <= free <= total <= MOST_DESCRIPTORS:
        raise FormatError(f"SIF header: {free} of {total} descriptors free")
    stop = _sum("place of descriptors", table, total * DESCRIPTOR_BYTES)
    if total and (table < HEADER_BYTES or table_size < total * DESCRIPTOR_BYTES):
        raise FormatError(f"SIF header: {total} descriptors in {table_size} bytes at {table}")
    return SifHeader(
        arch=_arch(arch),
        id=uuid.UUID(bytes=raw_id),
        created_s=created,
        modified_s=modified,
        descriptor_count=total,
        descriptors=ByteRange(table, stop) if total else None,
        data_offset=start,
        expected_size_bytes=_sum("place of data", start, size),
    )


def parse_primary_partition(header: SifHeader, table: bytes) -> PrimaryPartition | None:
    """The one used partition that is marked primary; None where there is none (OCI-SIF, data containers).

    Args:
        table: the bytes of `header.descriptors`; more is not looked at.

    Raises:
        FormatError: the table is cut off, two partitions are primary, or one lies where none can lie.
    """
    if len(table) < header.descriptor_count * DESCRIPTOR_BYTES:
        raise FormatError(f"SIF descriptors: {len(table)} bytes for {header.descriptor_count}")
    found: PrimaryPartition | None = None
    for index in range(header.descriptor_count):
        partition = _primary(_DESCRIPTOR.unpack_from(table, index * DESCRIPTOR_BYTES))
        if partition is not None and found is not None:
            raise FormatError("SIF descriptors: more than one primary partition")
        found = found or partition
    if found is not None and header.descriptors is not None and _overlap(found.partition, header.descriptors):
        raise FormatError("SIF descriptors: the primary partition covers the descriptors")
    return found


def _primary(fields: tuple[int | bytes, ...]) -> PrimaryPartition | None:
    data_type, used, offset, size, extra = fields[0], fields[1], fields[5], fields[6], fields[13]
    assert isinstance(offset, int)
    assert isinstance(size, int)
    assert isinstance(extra, bytes)
    filesystem, role, arch = _PARTITION.unpack_from(extra)
    if not used or data_type != _PARTITION_TYPE or role != _PRIMARY:
        return None
    stop = _sum("place of the primary partition", offset, size)
    if offset < HEADER_BYTES or not size:
        raise FormatError(f"SIF descriptors: a primary partition of {size} bytes at {offset}")
    known = filesystem in FilesystemType._value2member_map_
    return PrimaryPartition(
        FilesystemType(filesystem) if known else filesystem, ByteRange(offset, stop), _arch(arch)
    )


def _overlap(a: ByteRange, b: ByteRange) -> bool:
    return a.start < b.stop and b.start < a.stop
