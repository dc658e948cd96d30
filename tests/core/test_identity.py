"""core.identity: ids and numbers, the same in every process and on every machine."""

import pytest

from lazysif.core.identity import ROOT_INODE, image_id, inode_number
from lazysif.model import Validator, ValidatorKind

ETAG = Validator(ValidatorKind.ETAG, '"v1"')
ID = image_id("https://h/a.sif", ETAG, 100)


def test_ids_and_numbers_never_change():
    """Frames tables and inode numbers on disk depend on them: a change here needs new directories."""
    assert ID == "fbcba21d8141f7935b9c47f7f856692a"
    assert inode_number("image\0shub\0a.sif\0x") == 1387544910357281381


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(image_id("https://h/b.sif", ETAG, 100), id="another origin"),
        pytest.param(image_id("https://h/a.sif", Validator(ValidatorKind.ETAG, '"v2"'), 100), id="validator"),
        pytest.param(
            image_id("https://h/a.sif", Validator(ValidatorKind.LAST_MODIFIED, '"v1"'), 100), id="kind"
        ),
        pytest.param(image_id("https://h/a.sif", ETAG, 101), id="size"),
    ],
)
def test_each_part_counts(other):
    assert other != ID


def test_parts_do_not_run_into_each_other():
    assert image_id("a", Validator(ValidatorKind.ETAG, "b"), 12) != image_id(
        "a", Validator(ValidatorKind.ETAG, "b1"), 2
    )


def test_numbers_fit_the_kernel_and_keep_clear_of_the_root():
    numbers = [inode_number(f"image {i}", attempt) for i in range(2000) for attempt in (0, 1)]
    assert len(set(numbers)) == len(numbers)
    assert ROOT_INODE not in numbers
    assert all(1 << 32 <= number < 1 << 63 for number in numbers)


def test_the_next_attempt_gives_another_number():
    assert inode_number("x") == inode_number("x", 0) != inode_number("x", 1)
