"""SIF and squashfs headers made field by field, so that a test can set any of them wrong."""

from __future__ import annotations

import struct
from collections.abc import Sequence

DESCRIPTOR_BYTES = 585


def descriptor(
    *,
    data_type: int = 0x4004,
    used: int = 1,
    offset: int = 36864,
    size: int = 8192,
    filesystem: int = 1,
    role: int = 2,
    arch: bytes = b"02\0",
) -> bytes:
    """One descriptor; without arguments a primary squashfs partition."""
    extra = struct.pack("<ii3s", filesystem, role, arch)
    return struct.pack(
        "<iBIIIqqqqqqq128s384s",
        *(data_type, used, 1, 0xF0000001, 0, offset, size, size, 0, 0, 0, 0, b"root.sqfs", extra),
    )


def sif_head(
    descriptors: Sequence[bytes] = (descriptor(),),
    *,
    magic: bytes = b"SIF_MAGIC\0",
    version: bytes = b"01\0",
    arch: bytes = b"02\0",
    free: int | None = None,
    total: int = 48,
    table_offset: int = 4096,
    table_size: int | None = None,
    data_offset: int = 32176,
    data_size: int = 12880,
) -> bytes:
    """The image's start up to the end of its descriptor table, of a file of 45056 bytes."""
    header = struct.pack(
        "<32s10s3s3s16s8q",
        *(
            b"#!/usr/bin/env run-singularity\n",
            magic,
            version,
            arch,
            bytes(range(16)),
            1_700_000_000,
            1_700_000_001,
        ),
        total - len(descriptors) if free is None else free,
        *(total, table_offset, total * DESCRIPTOR_BYTES if table_size is None else table_size),
        *(data_offset, data_size),
    )
    table = b"".join(descriptors)
    rest = bytes(max(0, min(total, 5000) - len(descriptors)) * DESCRIPTOR_BYTES)
    return header + bytes(max(0, min(table_offset, 1 << 20) - len(header))) + table + rest


def superblock(
    *,
    magic: bytes = b"hsqs",
    block_size: int = 131072,
    block_log: int = 17,
    compression: int = 1,
    major: int = 4,
    bytes_used: int = 8000,
    inode_table: int = 4000,
    directory_table: int = 5000,
    id_table: int = 7900,
    xattr_table: int = 2**64 - 1,
) -> bytes:
    """The 96 bytes of a squashfs of 8000 bytes whose tables start at 4000."""
    return struct.pack(
        "<4sIIIIHHHHHHQQQQQQQQ",
        *(magic, 7, 0, block_size, 1, compression, block_log, 0, 1, major, 0, 0),
        *(bytes_used, id_table, xattr_table, inode_table, directory_table, 6000, 7000),
    )
