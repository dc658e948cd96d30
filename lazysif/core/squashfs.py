"""The superblock of a squashfs, and where its tables lie. Pure.

Source: squashfs-tools squashfs_fs.h, squashfs-tools-ng doc/format.adoc (version 4.0, little endian). Data
blocks come first, then inode, directory, fragment, export, id and xattr tables up to the end: so all metadata
lies in `[inode_table_start, bytes_used)`, and with it at hand mount, `ls` and `stat` are local.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lazysif.errors import FormatError
from lazysif.model import ByteRange

MAGIC = b"hsqs"
# magic, inodes, time, block size, fragments | compression, block log, flags, ids, major, minor |
# root inode, bytes used, starts of id, xattr, inode, directory, fragment, export tables
_SUPERBLOCK = struct.Struct("<4s4I6H8Q")
SUPERBLOCK_BYTES = _SUPERBLOCK.size
_ABSENT = 2**64 - 1
_LARGEST = 2**63 - 1
# A header may name any range as its tables, and they are fetched unasked and pinned. Tables take 0.1 to 2 %
# of an image, so this does for 12 GB at the worst; a larger range is read when it is asked for.
LARGEST_TABLES_BYTES = 256 * 1024 * 1024

_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


@dataclass(frozen=True, slots=True)
class Superblock:
    """Positions are bytes from the start of the squashfs; a `compression` may be "unknown"."""

    inode_count: int
    block_size: int
    compression: str
    bytes_used: int
    inode_table_start: int
    directory_table_start: int


def parse_superblock(data: bytes) -> Superblock:
    """The superblock in the first `SUPERBLOCK_BYTES` bytes of a squashfs; what follows is not looked at.

    Raises:
        FormatError: too short, no squashfs 4.0 of this byte order, or numbers that cannot be.
    """
    if len(data) < SUPERBLOCK_BYTES:
        raise FormatError(f"squashfs superblock: {len(data)} of {SUPERBLOCK_BYTES} bytes")
    magic, inodes, _, block_size, _, compression, block_log, _, _, major, minor, *places = (
        _SUPERBLOCK.unpack_from(data)
    )
    if magic != MAGIC:
        raise FormatError("squashfs superblock: magic is missing")
    if (major, minor) != (4, 0):
        raise FormatError(f"squashfs superblock: version {major}.{minor} is not known")
    if not 12 <= block_log <= 20 or block_size != 1 << block_log:
        raise FormatError(f"squashfs superblock: blocks of {block_size} bytes, logarithm {block_log}")
    _, bytes_used, ids, xattrs, inode_table, directories, fragments, exports = places
    if not SUPERBLOCK_BYTES <= inode_table <= directories <= bytes_used <= _LARGEST:
        raise FormatError("squashfs superblock: tables lie outside the file system")
    for start in (ids, xattrs, fragments, exports):
        if start != _ABSENT and not SUPERBLOCK_BYTES <= start <= bytes_used:
            raise FormatError("squashfs superblock: a table lies outside the file system")
    return Superblock(
        inode_count=inodes,
        block_size=block_size,
        compression=_COMPRESSIONS.get(compression, "unknown"),
        bytes_used=bytes_used,
        inode_table_start=inode_table,
        directory_table_start=directories,
    )


def tables_range(superblock: Superblock, partition_offset: int, image_size: int) -> ByteRange | None:
    """Where all metadata lies, in bytes of the image.

    None where there is nothing to fetch ahead: the squashfs does not end inside the image (a cut-off file),
    has no tables, or claims more than `LARGEST_TABLES_BYTES` of them.
    """
    start = partition_offset + superblock.inode_table_start
    stop = partition_offset + superblock.bytes_used
    if partition_offset < 0 or not start < stop <= image_size or stop - start > LARGEST_TABLES_BYTES:
        return None
    return ByteRange(start, stop)
