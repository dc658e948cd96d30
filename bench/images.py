"""Make SIF images to read: from a tree of files quickly, or a real one with a Debian in it.

Used by tests and by the demonstration. Contents are deterministic: the same seed gives the same files.
Layout of the SIF: apptainer/sif pkg/sif/{sif,descriptor,create}.go.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LAUNCH_SCRIPT = b"#!/usr/bin/env run-singularity\n"
DESCRIPTOR_COUNT = 48
DESCRIPTOR_BYTES = 585
DESCRIPTORS_OFFSET = 4096
DATA_OFFSET = DESCRIPTORS_OFFSET + DESCRIPTOR_COUNT * DESCRIPTOR_BYTES
CREATED_S = 1_700_000_000
DATA_DEFFILE = 0x4001
DATA_PARTITION = 0x4004
GROUP_MASK = 0xF0000000
COMPRESSIONS = ("gzip", "zstd", "lz4", "xz")

DEBIAN_SUITE = "bookworm"
DEBIAN_PACKAGES = ("python3", "python3-numpy", "ca-certificates")
REFERENCE_BYTES = 16 * 1024 * 1024
"""Random data in the real image that no job touches, as reference data is in most images."""


class CannotBuild(Exception):
    """A tool or the network that the builder needs is missing; the text says which."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Where the file system lies in a SIF made here."""

    offset: int
    length: int


def write_sif(path: Path, squashfs: Path, *, definition: bytes = b"bootstrap: scratch\n") -> Partition:
    """Write a SIF with a definition file and one primary squashfs partition, aligned as by Apptainer."""
    payload_bytes = squashfs.stat().st_size
    partition_offset = -(-(DATA_OFFSET + len(definition)) // 4096) * 4096
    stop = partition_offset + payload_bytes
    fs_squash, part_primary_system, arch = 1, 2, b"02\0"  # 02 is amd64
    descriptors = _descriptor(DATA_DEFFILE, 1, DATA_OFFSET, len(definition), DATA_OFFSET, b"", b"")
    descriptors += _descriptor(
        DATA_PARTITION,
        2,
        partition_offset,
        payload_bytes,
        DATA_OFFSET + len(definition),
        squashfs.name.encode(),
        struct.pack("<ii3s", fs_squash, part_primary_system, arch),
    )
    header = struct.pack(
        "<32s10s3s3s16sqqqqqqqq",
        LAUNCH_SCRIPT,
        b"SIF_MAGIC\0",
        b"01\0",
        arch,
        uuid.uuid5(uuid.NAMESPACE_URL, f"lazysif:{payload_bytes}").bytes,
        CREATED_S,
        CREATED_S,
        DESCRIPTOR_COUNT - 2,
        DESCRIPTOR_COUNT,
        DESCRIPTORS_OFFSET,
        DESCRIPTOR_COUNT * DESCRIPTOR_BYTES,
        DATA_OFFSET,
        stop - DATA_OFFSET,
    )
    with path.open("wb") as sif, squashfs.open("rb") as payload:
        sif.write(header)
        sif.seek(DESCRIPTORS_OFFSET)
        sif.write(descriptors.ljust(DESCRIPTOR_COUNT * DESCRIPTOR_BYTES, b"\0"))
        sif.write(definition.ljust(partition_offset - DATA_OFFSET, b"\0"))
        shutil.copyfileobj(payload, sif, 1024 * 1024)
    path.chmod(0o755)
    return Partition(partition_offset, payload_bytes)


def _descriptor(
    kind: int, number: int, offset: int, length: int, previous_stop: int, name: bytes, extra: bytes
) -> bytes:
    padded = length + offset - previous_stop
    return struct.pack(
        "<i?IIIqqqqqqq128s384s",
        kind,
        True,
        number,
        GROUP_MASK | 1,
        0,
        offset,
        length,
        padded,
        CREATED_S,
        CREATED_S,
        0,
        0,
        name,
        extra,
    )


def partition_of(sif: Path) -> Partition:
    """Find the primary partition of any SIF.

    Raises:
        ValueError: there is none.
    """
    with sif.open("rb") as stream:
        header = stream.read(128)
        if header[32:42] != b"SIF_MAGIC\0":
            raise ValueError(f"{sif} is not a SIF")
        count, offset = struct.unpack_from("<qq", header, 88)
        stream.seek(offset)
        table = stream.read(count * DESCRIPTOR_BYTES)
    for start in range(0, len(table), DESCRIPTOR_BYTES):
        kind, used = struct.unpack_from("<i?", table, start)
        part_type = struct.unpack_from("<i", table, start + 205)[0]
        if used and kind == DATA_PARTITION and part_type == 2:
            return Partition(*struct.unpack_from("<qq", table, start + 17))
    raise ValueError(f"{sif} has no primary partition")


def fill_tree(
    root: Path, *, seed: int = 1, bulk_bytes: int = 4 * 1024 * 1024, small_files: int = 300
) -> None:
    """Fill a directory with what images hold: text, noise, many small and some empty files, links."""
    noise = random.Random(seed)
    words = [noise.randbytes(noise.randint(1, 5)).hex() for _ in range(500)]
    for name in ("bin", "data", "deep/er/still/further", "lib/many", "empty-directory"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "data/noise.bin").write_bytes(noise.randbytes(bulk_bytes))
    (root / "data/text.txt").write_text(" ".join(noise.choices(words, k=bulk_bytes // 8)))
    (root / "data/zeros.bin").write_bytes(bytes(1024 * 1024))
    (root / "data/empty").touch()
    (root / "deep/er/still/further/leaf").write_bytes(b"leaf\n")
    for number in range(small_files):
        (root / f"lib/many/module_{number:04}.py").write_bytes(
            noise.randbytes(noise.randint(0, 3000)).hex().encode()
        )
    for link, target in (("link-to-text", "data/text.txt"), ("dangling", "no/such/thing"), ("up", "deep/er")):
        (root / link).symlink_to(target)
    script = root / "bin/job"
    script.write_text("#!/bin/sh\necho done\n")
    script.chmod(0o755)
    for directory, _, files in os.walk(root):
        for name in (directory, *(os.path.join(directory, file) for file in files)):
            os.utime(name, (CREATED_S, CREATED_S), follow_symlinks=False)


def make_squashfs(
    tree: Path, output: Path, *, compression: str = "gzip", options: Sequence[str] = ()
) -> None:
    """Raises: CannotBuild."""
    run_tool(
        ["mksquashfs", str(tree), str(output), "-comp", compression, "-noappend", "-no-progress", "-quiet",
         "-all-root", "-mkfs-time", str(CREATED_S), "-processors", "2", *options]
    )  # fmt: skip


def small_sif(
    path: Path,
    *,
    compression: str = "gzip",
    seed: int = 1,
    bulk_bytes: int = 4 * 1024 * 1024,
    small_files: int = 300,
    tree: Path | None = None,
) -> Partition:
    """Write a SIF of made-up files, in well under two seconds at the default size.

    Args:
        tree: where to leave the files themselves, to compare with; a temporary directory otherwise.

    Raises:
        CannotBuild: mksquashfs is missing or failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lazysif-image-", dir=path.parent) as work:
        root = tree or Path(work, "root")
        root.mkdir(parents=True, exist_ok=True)
        fill_tree(root, seed=seed, bulk_bytes=bulk_bytes, small_files=small_files)
        squashfs = Path(work, "root.squashfs")
        make_squashfs(root, squashfs, compression=compression)
        unfinished = Path(work, "image.sif")
        partition = write_sif(unfinished, squashfs)
        unfinished.replace(path)
    return partition


def real_sif(directory: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Build, or find from an earlier call, an image of Debian with Python and numpy (about 100 MB).

    The first build takes about a minute: packages come from the mirror that this machine is configured for.
    Written by Apptainer; where that is missing by mksquashfs and `write_sif`, under another name.

    Raises:
        CannotBuild: not root, debootstrap is missing, or the mirror cannot be reached.
    """
    path = directory / f"debian-{DEBIAN_SUITE}-python-{packer()}-1.sif"
    with building(path) as root:
        if root is not None:
            unpack_debian(root, say)
            reference = root / "opt/reference.bin"
            reference.write_bytes(random.Random(7).randbytes(REFERENCE_BYTES))
            say("packing the image")
            pack_sif(root, path)
    return path


@contextmanager
def building(path: Path) -> Iterator[Path | None]:
    """Where the root of an image is to be unpacked, while nobody else builds there; None where the image exists."""
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None  # whoever was first has built it
            return
        with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as work:
            yield Path(work, "root")


def packer() -> str:
    """What `pack_sif` packs with, for the names of images: they differ by it."""
    return "apptainer" if shutil.which("apptainer") else "plain"


def unpack_debian(root: Path, say: Callable[[str], None]) -> None:
    """Fill a new directory with Debian, Python and numpy.

    Raises:
        CannotBuild: not root, debootstrap is missing, or the mirror cannot be reached.
    """
    if os.geteuid() != 0:
        raise CannotBuild("building the Debian image needs root: debootstrap unpacks files of many owners")
    say(f"unpacking Debian {DEBIAN_SUITE} with {', '.join(DEBIAN_PACKAGES)}")
    run_tool(
        ["debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}",
         DEBIAN_SUITE, str(root), debian_mirror()]
    )  # fmt: skip
    for archive in root.glob("var/cache/apt/archives/*.deb"):
        archive.unlink()


def pack_sif(root: Path, path: Path) -> None:
    """Make a SIF of the directory `root`; `path` appears when it is whole.

    Raises:
        CannotBuild: Apptainer, or where that is missing mksquashfs, failed.
    """
    work = root.parent
    unfinished = work / "image.sif"
    if packer() == "apptainer":
        run_tool(
            ["apptainer", "build", str(unfinished), f"{root}/"],
            TMPDIR=str(work),
            APPTAINER_CACHEDIR=f"{work}/cache",
        )
    else:
        squashfs = work / "root.squashfs"
        make_squashfs(root, squashfs)
        write_sif(unfinished, squashfs)
    unfinished.replace(path)


def debian_mirror(apt: Path = Path("/etc/apt")) -> str:
    """The mirror of Debian itself that apt on this machine is configured for.

    Raises:
        CannotBuild: there is none.
    """
    for path in (apt / "sources.list.d/debian.sources", apt / "sources.list"):
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] not in (["URIs:"], ["deb"]):
                continue
            for word in words:
                if word.startswith(("http://", "https://")) and "security" not in word:
                    return word
    raise CannotBuild("no Debian mirror is configured in /etc/apt/sources.list or debian.sources")


def default_directory() -> Path:
    """Where built images are kept between runs: LAZYSIF_TEST_IMAGES, else in the user's cache directory."""
    if chosen := os.environ.get("LAZYSIF_TEST_IMAGES"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lazysif-test-images"


def run_tool(command: list[str], **environment: str) -> None:
    """Run a command to its end.

    Raises:
        CannotBuild: it is missing or failed; the text has its last lines.
    """
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"{command[0]} is not installed")
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise CannotBuild(f"{command[0]} failed ({done.returncode}): {last}")
