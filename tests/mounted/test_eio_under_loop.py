"""An error under a loop-mounted image is an error for the job, never wrong bytes.

The loop driver can take a short answer for zeros, and squashfs checks nothing of blocks that are not compressed; so
errors are put at random blocks, also into the middle of what the kernel asks for in one request.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.faults import Status
from tests.support.mount import Mount, wait_until
from tests.support.raw_origin import Fault, RawOrigin, Request, parse_range

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

BLOCK = 4096
MIB = 1 << 20
FILES = 24
READ_AHEAD_KB = (4, 32, 128, 1024, 4096)
"""Ours is 32; others may set the mount's, and without root it is the kernel's 128."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(5)
    for number in range(FILES):
        (root / f"f{number}").write_bytes(rng.randbytes(rng.randrange(3 * BLOCK, MIB)))
    return root


@pytest.fixture(scope="module")
def squashfs(tree: Path) -> bytes:
    program = shutil.which("mksquashfs")
    if program is None:
        pytest.skip("mksquashfs is not installed")
    image = tree.parent / "plain.squashfs"
    options = ["-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet"]
    subprocess.run([program, str(tree), str(image), *options], check=True, capture_output=True)
    return image.read_bytes()


class BrokenBlocks:
    """Refuses requests that touch blocks of an image that are broken; errors begin when `begin` is called."""

    def __init__(self, data: bytes, seed: int, share: float) -> None:
        rng = random.Random(seed)
        self.blocks = {i for i in range(len(data) // BLOCK) if rng.random() < share}
        self.total = len(data)
        self.begun = threading.Event()

    def __call__(self, request: Request) -> Fault | None:
        asked = parse_range(request.headers.get("range", ""), self.total)
        if not self.begun.is_set() or asked is None:
            return None
        start, stop = asked
        touched = range(start // BLOCK, -(-stop // BLOCK))
        return Status(400) if any(block in self.blocks for block in touched) else None


@pytest.fixture
def serve(
    tmp_path: Path, lazysif: Callable[..., Mount]
) -> Iterator[Callable[[bytes, int], tuple[Mount, BrokenBlocks]]]:
    origins = []

    def start(
        data: bytes, seed: int, share: float = 0.01, *, cached: bool = False
    ) -> tuple[Mount, BrokenBlocks]:
        broken = BrokenBlocks(data, seed, share)
        origin = RawOrigin({"/a.img": data}, decide=broken)
        origins.append(origin)
        origin.__enter__()
        config = tmp_path / "config.toml"
        config.write_text(
            f'[cache]\nblock_size = "{BLOCK // 1024}KiB"\nsize = "100MiB"\n'
            f'[remote.bio]\nkind = "http"\nurl = "{origin.url}"\n'
        )
        mount = lazysif(config=config, log_level="error")
        if cached:
            assert (mount.path / "bio/a.img").read_bytes() == data
            wanted = {data[i * BLOCK : (i + 1) * BLOCK] for i in broken.blocks}
            wait_until(lambda: stored(mount.cache_dir, wanted) == len(wanted), "not all of it is cached")
            mount.umount()
            lose_frames(mount.cache_dir, wanted)
            mount.start()
        return mount, broken

    yield start
    for origin in origins:
        origin.close()


def lose_frames(cache_dir: Path, blocks: set[bytes]) -> None:
    """Take these blocks out of a cache: then each of them alone is asked for, amid others that are there."""
    with closing(sqlite3.connect(cache_dir / "frames-v1/cache.db")) as database, database:
        for block in blocks:
            done = database.execute("DELETE FROM Cache WHERE key = ?", (blake3(block).digest(),))
            assert done.rowcount == 1


def stored(cache_dir: Path, blocks: set[bytes]) -> int:
    query = "SELECT COUNT(*) FROM Cache WHERE key = ?"
    with closing(sqlite3.connect(cache_dir / "frames-v1/cache.db")) as database:
        return sum(database.execute(query, (blake3(block).digest(),)).fetchone()[0] for block in blocks)


def set_read_ahead(mount: Mount, kb: int) -> None:
    number = os.stat(mount.path).st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    if not os.access(bdi, os.W_OK):
        pytest.skip("read_ahead_kb needs root")
    bdi.write_text(f"{kb}\n")


@contextmanager
def loop_device(image: Path, offset: int) -> Iterator[Path]:
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if losetup is None or os.geteuid() != 0:
        pytest.skip("loop devices need root and losetup")
    command = [losetup, "--find", "--show", "--read-only", f"--offset={offset}", str(image)]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        yield device
    finally:
        subprocess.run([losetup, "--detach", str(device)], check=False, capture_output=True)
        backing = Path("/sys/block") / device.name / "loop/backing_file"
        wait_until(lambda: not backing.exists(), "the loop device is still in use")


def compare(root: Path, tree: Path) -> tuple[int, int]:
    """How many files were right, and how many ended in an error. Raises: AssertionError: wrong bytes."""
    right = errors = 0
    for number in range(FILES):
        expected = (tree / f"f{number}").read_bytes()
        try:
            got = (root / f"f{number}").read_bytes()
        except OSError:
            errors += 1
            continue
        differing = [
            i for i in range(0, len(expected), BLOCK) if got[i : i + BLOCK] != expected[i : i + BLOCK]
        ]
        assert got == expected, f"f{number}: {len(got)} bytes of {len(expected)}, wrong from {differing[:3]}"
        right += 1
    return right, errors


@pytest.mark.parametrize("offset", [4096, 512], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("cached", [False, True], ids=["nothing cached", "all but the broken cached"])
@pytest.mark.parametrize("read_ahead_kb", READ_AHEAD_KB)
def test_a_file_is_right_or_an_error(
    serve: Callable[..., tuple[Mount, BrokenBlocks]],
    squashfs: bytes,
    tree: Path,
    tmp_path: Path,
    read_ahead_kb: int,
    offset: int,
    cached: bool,
) -> None:
    data = random.Random(1).randbytes(offset) + squashfs
    mount, broken = serve(data, seed=read_ahead_kb + offset, share=0.004, cached=cached)
    set_read_ahead(mount, read_ahead_kb)
    target = tmp_path / "inside"
    target.mkdir()
    with loop_device(mount.path / "bio/a.img", offset) as device:
        subprocess.run(["mount", "-t", "squashfs", "-o", "ro", str(device), str(target)], check=True)
        try:
            os.listdir(target)
            broken.begun.set()
            right, errors = compare(target, tree)
        finally:
            subprocess.run(["umount", str(target)], check=True)
    assert errors
    assert right + errors == FILES
    if cached:
        assert right


@pytest.mark.parametrize("read_bytes", [4096, MIB])
@pytest.mark.parametrize("read_ahead_kb", READ_AHEAD_KB)
def test_a_loop_device_gives_right_bytes_or_an_error(
    serve: Callable[..., tuple[Mount, BrokenBlocks]], squashfs: bytes, read_ahead_kb: int, read_bytes: int
) -> None:
    mount, broken = serve(squashfs, seed=read_ahead_kb, share=0.003, cached=True)
    set_read_ahead(mount, read_ahead_kb)
    right = errors = 0
    with loop_device(mount.path / "bio/a.img", 0) as device:
        broken.begun.set()
        handle = os.open(device, os.O_RDONLY)
        try:
            for start in range(0, len(squashfs) - read_bytes, read_bytes):
                try:
                    got = os.pread(handle, read_bytes, start)
                except OSError:
                    errors += 1
                    continue
                assert got == squashfs[start : start + len(got)], f"wrong bytes in the read at {start}"
                right += bool(got)
                errors += len(got) < read_bytes  # up to the page that cannot be read
        finally:
            os.close(handle)
    assert right
    assert errors
