"""Sizes as people write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.sizes import ShareOrSize, exact_size, format_size, parse_share_or_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("12B", 12),
        ("64k", 64 * 1024),
        ("64K", 64 * 1024),
        ("64kB", 64_000),
        ("64KB", 64_000),
        ("64KiB", 64 * 1024),
        ("200GiB", 200 * 2**30),
        ("1.5TB", 1_500_000_000_000),
        (" 1.5 GiB ", 3 * 2**29),
        ("0.1kB", 100),
        ("8191PiB", 8191 * 2**50),
    ],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "GiB", "1.GiB", ".5", "1e3", "1 X", "1kibi", "0x10", "1_000", "٣", "5%", "1b1", "8EiB"],
)
def test_anything_else_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is more than") as raised:
        parse_size(text)
    assert f'"{text}"' in str(raised.value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1 KiB"),
        (1024, "1 KiB"),
        (4096, "4 KiB"),
        (1000 * 2**20, "0.98 GiB"),
        (1_524_713_390, "1.42 GiB"),
        (131 * 2**30, "131 GiB"),
        (-4096, "-4 KiB"),
        (2**63, "8 EiB"),
    ],
)
def test_a_size_is_written_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(0, 2**63 - 1))
def test_the_exact_text_reads_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


def test_a_share_is_resolved_later() -> None:
    share = parse_share_or_size("5%")
    assert share == ShareOrSize(share=Fraction(1, 20))
    assert (share.resolve(1000), share.resolve(0), str(share)) == (50, 0, "5%")
    assert parse_share_or_size("12.5 %").resolve(800) == 100


def test_a_size_does_not_depend_on_the_whole() -> None:
    size = parse_share_or_size("10GiB")
    assert (size.resolve(1), str(size)) == (10 * 2**30, "10GiB")


@pytest.mark.parametrize("text", ["%", "101%", "-5%", "5%%", "5% of it", "five%"])
def test_a_share_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        parse_share_or_size(text)


def test_a_value_is_one_of_the_two() -> None:
    with pytest.raises(ValueError):
        ShareOrSize()
    with pytest.raises(ValueError):
        ShareOrSize(share=Fraction(1, 2), size_bytes=1)
