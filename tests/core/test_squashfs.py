"""Superblocks, and where the tables lie."""

import pytest

from lazysif.core.squashfs import LARGEST_TABLES_BYTES, parse_superblock, tables_range
from lazysif.errors import FormatError
from lazysif.model import ByteRange
from tests.support.headers import superblock


def test_a_superblock_is_read() -> None:
    known = parse_superblock(superblock(compression=6))
    assert (known.inode_count, known.block_size, known.compression) == (7, 131072, "zstd")
    assert (known.inode_table_start, known.directory_table_start, known.bytes_used) == (4000, 5000, 8000)
    assert parse_superblock(superblock(compression=9)).compression == "unknown"


@pytest.mark.parametrize(
    "wrong",
    [
        {"magic": b"sqsh"},
        {"major": 3},
        {"block_size": 131073},
        {"block_log": 11, "block_size": 2048},
        {"block_log": 21, "block_size": 2**21},
        {"block_log": 65535},
        {"bytes_used": 95},
        {"bytes_used": 2**64 - 1},
        {"inode_table": 0},
        {"inode_table": 2**64 - 1},
        {"inode_table": 5001},
        {"directory_table": 8001},
        {"id_table": 8001},
        {"xattr_table": 0},
    ],
)
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        parse_superblock(superblock(**wrong))  # type: ignore[arg-type]


def test_too_short_at_every_length() -> None:
    for length in range(96):
        with pytest.raises(FormatError, match="of 96 bytes"):
            parse_superblock(superblock()[:length])


@pytest.mark.parametrize(
    ("offset", "image_size", "tables"),
    [
        (0, 8000, ByteRange(4000, 8000)),
        (32768, 100_000, ByteRange(36768, 40768)),
        (0, 7999, None),
        (1, 8000, None),
        (-1, 8000, None),
    ],
)
def test_tables_lie_inside_the_image(offset: int, image_size: int, tables: ByteRange | None) -> None:
    assert tables_range(parse_superblock(superblock()), offset, image_size) == tables


def test_a_whole_image_is_never_taken_for_tables() -> None:
    stop = 4000 + LARGEST_TABLES_BYTES
    assert tables_range(parse_superblock(superblock(bytes_used=stop)), 0, stop) == ByteRange(4000, stop)
    assert tables_range(parse_superblock(superblock(bytes_used=stop + 1)), 0, stop + 1) is None


def test_no_tables_at_all() -> None:
    empty = superblock(inode_table=8000, directory_table=8000)
    assert tables_range(parse_superblock(empty), 0, 8000) is None
