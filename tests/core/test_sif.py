"""SIF headers, as Apptainer writes them and as nobody should."""

import uuid

import pytest

from lazysif.core.sif import FilesystemType, is_sif, parse_header, parse_primary_partition
from lazysif.errors import FormatError
from lazysif.model import ByteRange
from tests.support.headers import descriptor, sif_head


def test_a_header_is_read() -> None:
    header = parse_header(sif_head())
    assert header.arch == "amd64"
    assert header.id == uuid.UUID(bytes=bytes(range(16)))
    assert (header.created_s, header.modified_s) == (1_700_000_000, 1_700_000_001)
    assert (header.descriptor_count, header.descriptors) == (48, ByteRange(4096, 32176))
    assert (header.data_offset, header.expected_size_bytes) == (32176, 45056)


def test_a_header_without_descriptors() -> None:
    header = parse_header(sif_head((), total=0, arch=b"99\0"))
    assert (header.descriptors, header.arch) == (None, "unknown")
    assert parse_primary_partition(header, b"") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"magic": b"SIF_MAGIX\0"},
        {"version": b"02\0"},
        {"free": -1},
        {"free": 49},
        {"total": -1, "free": -2},
        {"total": 1_000_000},
        {"total": 2**63 - 1, "table_size": 2**63 - 1},
        {"table_offset": -1},
        {"table_offset": 100},
        {"table_offset": 2**63 - 1},
        {"table_size": 100},
        {"data_offset": -1},
        {"data_size": -1},
        {"data_size": 2**63 - 1},
    ],
)
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        parse_header(sif_head((), **wrong))  # type: ignore[arg-type]


def test_too_short_at_every_length() -> None:
    head = sif_head()
    for length in range(128):
        with pytest.raises(FormatError):
            parse_header(head[:length])
    header = parse_header(head[:128])
    for length in (0, 584, 28079):
        with pytest.raises(FormatError, match="bytes for 48"):
            parse_primary_partition(header, head[4096:][:length])


def test_the_magic_says_what_claims_to_be_one() -> None:
    assert is_sif(sif_head()[:42])
    assert not is_sif(sif_head()[:41])
    assert not is_sif(b"")


def _primary(*descriptors: bytes) -> object:
    head = sif_head(descriptors)
    return parse_primary_partition(parse_header(head), head[4096:])


def test_the_primary_partition_is_found() -> None:
    others = (descriptor(used=0), descriptor(data_type=0x4001), descriptor(role=4), descriptor(role=1))
    head = sif_head((*others, descriptor(arch=b"04\0")))
    found = parse_primary_partition(parse_header(head), head[4096:])
    assert found is not None
    assert (found.filesystem, found.partition, found.arch) == (
        FilesystemType.SQUASHFS,
        ByteRange(36864, 45056),
        "arm64",
    )
    assert _primary(*others) is None


def test_a_file_system_of_another_type() -> None:
    head = sif_head((descriptor(filesystem=77),))
    found = parse_primary_partition(parse_header(head), head[4096:])
    assert found is not None
    assert found.filesystem == 77


@pytest.mark.parametrize(
    "descriptors",
    [
        (descriptor(), descriptor()),
        (descriptor(offset=-1),),
        (descriptor(size=-1),),
        (descriptor(size=0),),
        (descriptor(offset=0),),
        (descriptor(offset=8192),),
        (descriptor(offset=2**63 - 1, size=2**63 - 1),),
    ],
)
def test_a_primary_partition_that_cannot_be(descriptors: tuple[bytes, ...]) -> None:
    with pytest.raises(FormatError):
        _primary(*descriptors)
