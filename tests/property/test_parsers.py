"""Whatever an origin sends: it parses, or it is a FormatError, and nothing else is raised."""

import struct
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.image_format import metadata_plan
from lazysif.core.index_page import looks_like_index, parse_index
from lazysif.core.names import is_name, join_url
from lazysif.core.sif import parse_header, parse_primary_partition
from lazysif.core.squashfs import parse_superblock, tables_range
from lazysif.errors import FormatError
from tests.support.headers import descriptor, sif_head, superblock

SIZE = 45056
HEAD = sif_head((descriptor(role=4), descriptor())).ljust(36864, b"\0") + superblock()
SUPERBLOCK = superblock()
# All that a parser looks at: the header, two descriptors in use and one that is not, the superblock.
LOOKED_AT = [*range(128), *range(4096, 4096 + 3 * 585), *range(36864, 36960)]


def plan(data: bytes, size: int = SIZE) -> None:
    try:
        found = metadata_plan(data, size)
    except FormatError:
        return
    for asked in (found.head, found.superblock, found.tables):
        assert asked is None or asked.stop <= size


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0x80, 0xFF])
def test_every_single_byte_set_wrong(value: int) -> None:
    for place in LOOKED_AT:
        plan(HEAD[:place] + bytes([value]) + HEAD[place + 1 :])


def test_every_single_bit_turned() -> None:
    for place in LOOKED_AT[:128] + LOOKED_AT[128:1298:3]:
        for bit in range(8):
            plan(HEAD[:place] + bytes([HEAD[place] ^ 1 << bit]) + HEAD[place + 1 :])


@given(st.integers(0, len(HEAD)), st.integers(0, 2**64))
def test_cut_off_anywhere(length: int, size: int) -> None:
    plan(HEAD[:length], size)


@given(st.binary(max_size=4000), st.integers(0, 2**64))
def test_garbage(data: bytes, size: int) -> None:
    plan(data, size)
    plan(HEAD[:48] + data, size)
    plan(HEAD[:4096] + data, size)
    plan(b"hsqs" + data, size)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8))
def test_wild_numbers_in_a_sif_header(numbers: list[int]) -> None:
    data = HEAD[:64] + struct.pack("<8q", *numbers) + HEAD[128:]
    try:
        header = parse_header(data)
        parse_primary_partition(header, data[4096:])
    except FormatError:
        return
    assert header.expected_size_bytes >= 0


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8), st.integers(-5, 2**64), st.integers(0, 2**64)
)
def test_wild_numbers_in_a_superblock(numbers: list[int], offset: int, size: int) -> None:
    try:
        known = parse_superblock(SUPERBLOCK[:32] + struct.pack("<8Q", *numbers))
    except FormatError:
        return
    tables = tables_range(known, offset, size)
    assert tables is None or 0 <= tables.start < tables.stop <= size


@given(st.text(max_size=500), st.sampled_from(["http://h/", "https://h:1/a%20b/?q", "x", ""]))
def test_an_index_page_of_garbage(body: str, url: str) -> None:
    for page in (
        body,
        f'<a href="{body}">',
        f"<a {body}>",
        f"[{body}]",
        f'[{{"name": "{body}", "type": "file"}}]',
    ):
        assert all(is_name(entry.name) for entry in parse_index(page, url))
        looks_like_index("application/json", page)


@given(st.lists(st.text(min_size=1, max_size=20).filter(is_name), unique=True, max_size=5))
def test_links_made_as_we_make_urls_read_back(names: list[str]) -> None:
    url = "https://h/a%20b/"
    links = "".join(f'<a href="{escape(join_url(url, name))}">' for name in names)
    assert [entry.name for entry in parse_index(links, url)] == names
