"""What the first bytes of an image say about the rest: the format, and where the squashfs tables lie. Pure.

Known are SIF with a primary squashfs partition, bare squashfs, and the .simg of Singularity 2: a squashfs
behind a launch line. Of anything else (ext3, encrypted partitions, other files) nothing is fetched ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lazysif.core import sif, squashfs
from lazysif.errors import FormatError
from lazysif.model import ByteRange

# Apptainer (pkg/image/squashfs.go) looks for this in the first 2048 bytes, and for the squashfs behind it.
_LAUNCH = b" run-singularity\n\0"
_LAUNCH_WITHIN = 2048


class ImageFormat(StrEnum):
    SIF = "sif"
    SQUASHFS = "squashfs"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class MetadataPlan:
    """What is known, and at most one of what to do next.

    Args:
        arch: of a SIF's primary partition ("amd64"), else "".
        expected_size_bytes: of the file, as a SIF header says; 0 where nothing says so.
        head: read these bytes, which start at 0, and plan again with them as `first_bytes`.
        superblock: read these bytes and plan again with them as `superblock`.
        tables: fetch and keep these: all squashfs metadata.
    """

    format: ImageFormat
    arch: str = ""
    expected_size_bytes: int = 0
    head: ByteRange | None = None
    superblock: ByteRange | None = None
    tables: ByteRange | None = None


def metadata_plan(first_bytes: bytes, image_size: int, superblock: bytes | None = None) -> MetadataPlan:
    """The next step towards the squashfs tables of an image.

    Args:
        first_bytes: the image's start, as much as is at hand; what Apptainer writes fits into 64 KiB.
        image_size: of the whole file, in bytes.
        superblock: the bytes that an earlier plan asked for.

    Raises:
        FormatError: it claims to be a SIF or squashfs, and its headers are not.
    """
    if sif.is_sif(first_bytes):
        return _sif_plan(first_bytes, image_size, superblock)
    offset = _squashfs_offset(first_bytes)
    if offset is None:
        return MetadataPlan(ImageFormat.OTHER)
    known = squashfs.parse_superblock(first_bytes[offset:])
    return MetadataPlan(ImageFormat.SQUASHFS, tables=squashfs.tables_range(known, offset, image_size))


def _squashfs_offset(first_bytes: bytes) -> int | None:
    """Where a squashfs starts that is not in a SIF; None where there is none."""
    offset = 0
    if first_bytes.startswith(b"#!"):
        launch = first_bytes.find(_LAUNCH, 0, _LAUNCH_WITHIN)
        offset = launch + len(_LAUNCH) if launch > 0 else 0
    return offset if first_bytes.startswith(squashfs.MAGIC, offset) else None


def _sif_plan(first_bytes: bytes, image_size: int, superblock: bytes | None) -> MetadataPlan:
    header = sif.parse_header(first_bytes)
    size = header.expected_size_bytes
    table = header.descriptors
    if table is None:
        return MetadataPlan(ImageFormat.SIF, header.arch, size)
    if table.stop > image_size:
        raise FormatError(f"SIF header: descriptors end at {table.stop}, the file at {image_size}")
    if table.stop > len(first_bytes):
        # A table far into the file would mean to read all that lies before it.
        near = table.stop <= sif.MOST_DESCRIPTORS * sif.DESCRIPTOR_BYTES
        return MetadataPlan(
            ImageFormat.SIF, header.arch, size, head=ByteRange(0, table.stop) if near else None
        )
    primary = sif.parse_primary_partition(header, first_bytes[table.start : table.stop])
    if primary is None or primary.filesystem != sif.FilesystemType.SQUASHFS:
        return MetadataPlan(ImageFormat.SIF, header.arch, size)
    partition = primary.partition
    if partition.stop > image_size or partition.length < squashfs.SUPERBLOCK_BYTES:
        raise FormatError(
            f"SIF descriptors: partition [{partition.start}, {partition.stop}) of {image_size} bytes"
        )
    if superblock is None:
        needed = ByteRange(partition.start, partition.start + squashfs.SUPERBLOCK_BYTES)
        if needed.stop > len(first_bytes):
            return MetadataPlan(ImageFormat.SIF, header.arch, size, superblock=needed)
        superblock = first_bytes[needed.start : needed.stop]
    known = squashfs.parse_superblock(superblock)
    if known.bytes_used > partition.length:
        raise FormatError("squashfs superblock: the file system is longer than its partition")
    tables = squashfs.tables_range(known, partition.start, image_size)
    return MetadataPlan(ImageFormat.SIF, header.arch, size, tables=tables)
