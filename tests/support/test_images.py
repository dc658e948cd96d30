"""The images that tests are made of are what Apptainer, mksquashfs and our own eyes take for SIFs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.images import COMPRESSIONS, CannotBuild, debian_mirror, small_sif
from tests.support.images import Images

needs_mksquashfs = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="mksquashfs is not installed"
)


@needs_mksquashfs
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_partition_holds_the_tree(tmp_path: Path, compression: str) -> None:
    image = Images(tmp_path / "images").small(compression, bulk_bytes=300_000, small_files=20)
    assert image.tree is not None
    offset = image.partition.offset
    assert (offset % 4096, image.data[offset : offset + 4]) == (0, b"hsqs")
    assert offset + image.partition.length == len(image.data)
    unpacked = tmp_path / "unpacked"
    unsquashfs = ["unsquashfs", "-no-progress", "-d", str(unpacked), "-o", str(offset), str(image.path)]
    subprocess.run(unsquashfs, check=True, capture_output=True)
    subprocess.run(["diff", "-r", "--no-dereference", str(image.tree), str(unpacked)], check=True)


@needs_mksquashfs
def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a.sif", "b.sif"):
        small_sif(tmp_path / name, bulk_bytes=100_000, small_files=5)
    assert (tmp_path / "a.sif").read_bytes() == (tmp_path / "b.sif").read_bytes()


@needs_mksquashfs
@pytest.mark.skipif(shutil.which("apptainer") is None, reason="apptainer is not installed")
def test_apptainer_reads_our_header(tmp_path: Path) -> None:
    small_sif(tmp_path / "a.sif", bulk_bytes=100_000, small_files=5)
    listing = subprocess.run(
        ["apptainer", "sif", "list", str(tmp_path / "a.sif")], check=True, capture_output=True, text=True
    ).stdout
    assert "FS (Squashfs/*System/amd64)" in listing
    assert "Def.FILE" in listing


def test_mirror_comes_from_the_configuration_of_apt(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb http://security.example/debian-security bookworm-security main\n"
        "deb [signed-by=/x.gpg] https://mirror.example/debian bookworm main\n"
    )
    assert debian_mirror(tmp_path) == "https://mirror.example/debian"
    (tmp_path / "sources.list").unlink()
    with pytest.raises(CannotBuild, match="no Debian mirror"):
        debian_mirror(tmp_path)
