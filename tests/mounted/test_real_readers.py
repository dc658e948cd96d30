"""Real readers, real server: whatever way a job reads an image, every file inside is the same as in the local one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.nginx import Nginx
from tests.support import readers
from tests.support.images import BuiltImage
from tests.support.mount import Mount
from tests.support.readers import Hashes

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(300)]

WAYS: dict[str, Callable[[Path], Hashes]] = {
    "apptainer exec as root": readers.hashes_by_exec(readers.exec_as_root),
    "apptainer exec as a user": readers.hashes_by_exec(readers.exec_as_user),
    "loop mount": readers.hashes_by_loop,
    "squashfuse": readers.hashes_by_squashfuse,
}
COMPRESSIONS = ("gzip", "zstd", "lz4", "xz")


@pytest.fixture(scope="module")
def site(tool_present: None, real_image: BuiltImage, fuse: None) -> Iterator[tuple[Path, Mount]]:
    """Local images, and a mount of the nginx that serves them. World-readable, for the ordinary user."""
    with tempfile.TemporaryDirectory(prefix="lazysif-site-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        served = root / "served"
        served.mkdir()
        for compression in COMPRESSIONS:
            readers.busybox_image(served, compression)
        shutil.copyfile(real_image.path, served / "debian.sif")
        with Nginx(served) as nginx, Mount(root / "mount", nginx.url) as mount:
            yield served, mount


@pytest.fixture(scope="module")
def tool_present() -> None:
    for program in ("apptainer", "squashfuse", "busybox", "useradd"):
        found = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, check=False)
        if found.returncode != 0:
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_file_of_a_small_image_is_the_same(
    site: tuple[Path, Mount], compression: str, way: str
) -> None:
    served, mount = site
    expected = readers.hash_tree(served / f"{compression}-tree")
    got = WAYS[way](mount.path / f"{compression}.sif")
    if way.startswith("apptainer"):
        # the host's own files lie over these
        expected = {path: digest for path, digest in expected.items() if not path.startswith("./etc/")}
        got = {path: digest for path, digest in got.items() if path in expected}
    assert len(got) > 200
    assert got == expected


@pytest.mark.parametrize("way", WAYS)
def test_every_file_of_a_debian_is_the_same(
    site: tuple[Path, Mount], local_debian: dict[str, Hashes], way: str
) -> None:
    _, mount = site
    got = WAYS[way](mount.path / "debian.sif")
    assert len(got) > 3000
    assert got == local_debian[way if way.startswith("apptainer") else "loop mount"]


@pytest.fixture(scope="module")
def local_debian(site: tuple[Path, Mount]) -> dict[str, Hashes]:
    """From the local file, by each way that shows other files: the host's and the user's lie over some."""
    image = site[0] / "debian.sif"
    assert image.stat().st_size > 80e6
    return {way: WAYS[way](image) for way in WAYS if way != "squashfuse"}


@pytest.mark.parametrize("name", [*(f"{c}.sif" for c in COMPRESSIONS), "debian.sif"])
def test_the_whole_file_is_the_same(site: tuple[Path, Mount], name: str) -> None:
    served, mount = site
    digests = []
    for path in (served / name, mount.path / name):
        with path.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    assert digests[0] == digests[1]
    assert os.stat(served / name).st_size == os.stat(mount.path / name).st_size


def test_a_user_reads_through_squashfuse_and_root_through_a_loop_device(site: tuple[Path, Mount]) -> None:
    """The two ways are what we take them for, or the tests above prove one thing twice."""
    image = site[1].path / "gzip.sif"
    as_root = readers.attached_by(readers.exec_as_root, image)
    as_user = readers.attached_by(readers.exec_as_user, image)
    assert "Mounting loop device" in as_root
    assert "squashfuse_ll -f" not in as_root
    assert "squashfuse_ll -f" in as_user
