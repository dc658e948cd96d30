"""Step by step from the first bytes to the squashfs tables."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lazysif.core.image_format import ImageFormat, MetadataPlan, metadata_plan
from lazysif.errors import FormatError
from lazysif.model import ByteRange
from tests.support.headers import descriptor, sif_head, superblock

SIZE = 45056
LAUNCH = b"#!/usr/bin/env run-singularity\n\0"


def sif(**tables: ByteRange | None) -> MetadataPlan:
    return MetadataPlan(ImageFormat.SIF, "amd64", SIZE, **tables)  # type: ignore[arg-type]


def test_all_at_hand() -> None:
    first = sif_head().ljust(36864, b"\0") + superblock()
    assert metadata_plan(first, SIZE) == sif(tables=ByteRange(40864, 44864))


def test_the_superblock_is_asked_for() -> None:
    plan = metadata_plan(sif_head(), SIZE)
    assert plan == sif(superblock=ByteRange(36864, 36960))
    assert metadata_plan(sif_head(), SIZE, superblock()) == sif(tables=ByteRange(40864, 44864))


def test_more_of_the_head_is_asked_for() -> None:
    plan = metadata_plan(sif_head()[:4096], SIZE)
    assert plan == sif(head=ByteRange(0, 32176))
    assert metadata_plan(sif_head()[: plan.head.stop], SIZE).superblock is not None  # type: ignore[union-attr]


def test_a_table_far_into_the_file_is_let_be() -> None:
    plan = metadata_plan(sif_head(table_offset=2**32), 2**33)
    assert (plan.head, plan.superblock, plan.tables) == (None, None, None)


@pytest.mark.parametrize(
    "head",
    [
        sif_head(()),
        sif_head((), total=0),
        sif_head((descriptor(filesystem=2),)),
        sif_head((descriptor(filesystem=5),)),
    ],
)
def test_a_sif_without_squashfs_needs_nothing(head: bytes) -> None:
    plan = metadata_plan(head, SIZE)
    assert (plan.format, plan.head, plan.superblock, plan.tables) == (ImageFormat.SIF, None, None, None)


@pytest.mark.parametrize("launch", [b"", LAUNCH, b"#!/bin/sh run-singularity\n\0"])
def test_a_bare_squashfs(launch: bytes) -> None:
    plan = metadata_plan(launch + superblock(), len(launch) + 8192)
    offset = len(launch)
    assert plan == MetadataPlan(ImageFormat.SQUASHFS, tables=ByteRange(offset + 4000, offset + 8000))


@pytest.mark.parametrize(
    "first", [b"", b"\0" * 5000, b"<html>", b"#!/bin/sh\nhsqs", LAUNCH, b" run-singularity\n\0hsqs", b"hsq"]
)
def test_anything_else_needs_nothing(first: bytes) -> None:
    assert metadata_plan(first, 10_000) == MetadataPlan(ImageFormat.OTHER)


@pytest.mark.parametrize(
    ("first", "size", "block"),
    [
        (sif_head()[:127], SIZE, None),
        (sif_head(), 32175, None),
        (sif_head(), SIZE - 1, None),
        (sif_head((descriptor(size=95),)), SIZE, None),
        (sif_head(), SIZE, b""),
        (sif_head(), SIZE, superblock(bytes_used=8193)),
        (superblock()[:95], SIZE, None),
        (superblock(major=3), SIZE, None),
    ],
)
def test_headers_that_are_none(first: bytes, size: int, block: bytes | None) -> None:
    with pytest.raises(FormatError):
        metadata_plan(first, size, block)


@pytest.mark.mounted
def test_an_image_made_by_the_real_tools(tmp_path: Path) -> None:
    if not (shutil.which("apptainer") and shutil.which("mksquashfs")):
        pytest.skip("apptainer and mksquashfs are not installed")
    tree, bare, image = tmp_path / "tree", tmp_path / "bare.sqfs", tmp_path / "image.sif"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "sh").write_bytes(bytes(range(256)) * 1000)
    run = [["mksquashfs", tree, bare, "-quiet", "-no-progress"]]
    run += [["apptainer", "--quiet", "build", "--force", image, tree]]
    for command in run:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path, kind in ((bare, ImageFormat.SQUASHFS), (image, ImageFormat.SIF)):
        data = path.read_bytes()
        plan = metadata_plan(data[:65536], len(data))
        if plan.superblock is not None:
            plan = metadata_plan(data, len(data), data[plan.superblock.start : plan.superblock.stop])
        assert plan.format == kind
        assert plan.expected_size_bytes in (0, len(data))
        assert plan.tables is not None
        # mksquashfs pads with zeros to 4096: nothing but padding lies behind the tables.
        assert not data[plan.tables.stop :].strip(b"\0")
        assert len(data) - plan.tables.stop < 4096
