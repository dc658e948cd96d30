"""A pass-through mount of one file that notes each read: what a job really asks of its image, and in what order.

    with Recorder(image, directory) as recorder:
        ...  # run a job from recorder.path
    recorder.reads  # [(seconds since the mount, offset, size), ...]

Runs as a process of its own (`python -m bench.recorder`). With `direct`, reads pass the page cache by, so that
they are those of the reader and not the kernel's readahead; without, they are what a daemon of a FUSE mount sees.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import pyfuse3
import trio

from tests.support.mount import mounted_at, wait_until

NAME = b"image.sif"
FILE_INODE = pyfuse3.ROOT_INODE + 1
PAGE_BYTES = 4096
Read = tuple[float, int, int]


class PassThrough(pyfuse3.Operations):
    """The file as NAME in an otherwise empty directory."""

    def __init__(self, image: Path, log: Path, *, direct: bool) -> None:
        super().__init__()
        self._image = os.open(image, os.O_RDONLY)
        self._log = log.open("w")
        self._direct = direct
        self._began_s = time.monotonic()

    async def getattr(self, inode, ctx=None):  # type: ignore[no-untyped-def]
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        status = os.fstat(self._image)
        entry.st_mode = 0o100755 if inode == FILE_INODE else 0o040755
        entry.st_size = status.st_size if inode == FILE_INODE else 0
        entry.st_nlink = 1
        entry.attr_timeout = entry.entry_timeout = 3600
        return entry

    async def lookup(self, parent_inode, name, ctx):  # type: ignore[no-untyped-def]
        if parent_inode != pyfuse3.ROOT_INODE or name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE_INODE)  # type: ignore[no-untyped-call]

    async def open(self, inode, flags, ctx):  # type: ignore[no-untyped-def]
        return pyfuse3.FileInfo(fh=inode, direct_io=self._direct, keep_cache=True)

    async def read(self, fh, off, size):  # type: ignore[no-untyped-def]
        self._log.write(f"{time.monotonic() - self._began_s:.6f} {off} {size}\n")
        return os.pread(self._image, size, off)

    def close(self) -> None:
        self._log.close()


class Recorder:
    """The mount, as a context manager.

    Args:
        directory: empty, for the mountpoint and the log.
        read_ahead_kb: the kernel's readahead of the mount, where the page cache is not passed by.
    """

    def __init__(
        self, image: Path, directory: Path, *, direct: bool = True, read_ahead_kb: int | None = None
    ) -> None:
        self._image = image
        self._mountpoint = directory / "recorded"
        self._log = directory / "reads.txt"
        self._direct = direct
        self._read_ahead_kb = read_ahead_kb
        self.reads: list[Read] = []

    @property
    def path(self) -> Path:
        return self._mountpoint / os.fsdecode(NAME)

    def __enter__(self) -> Self:
        self._mountpoint.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.recorder", self._image, self._mountpoint, self._log]
        self._process = subprocess.Popen(
            [*map(str, command), *(["--direct"] if self._direct else [])], cwd=Path(__file__).parent.parent
        )
        wait_until(lambda: bool(mounted_at(self._mountpoint)), "the recorder did not mount")
        if self._read_ahead_kb is not None:
            device = os.stat(self._mountpoint).st_dev
            bdi = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
            Path(bdi).write_text(str(self._read_ahead_kb))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", str(self._mountpoint)], check=False)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            subprocess.run(["umount", "-l", str(self._mountpoint)], check=False)
            self._process.kill()
            self._process.wait()
        self.reads = parsed(self._log)


def parsed(log: Path) -> list[Read]:
    rows = (line.split() for line in log.read_text().splitlines())
    return [(float(at_s), int(offset), int(size)) for at_s, offset, size in rows]


def touched_bytes(reads: Iterable[Read], granule: int = PAGE_BYTES) -> int:
    """Bytes of the pages, or other granules, that the reads touch."""
    touched: set[int] = set()
    for _, offset, size in reads:
        touched.update(range(offset // granule, -(-(offset + size) // granule)))
    return len(touched) * granule


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recorder", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--direct", action="store_true", help="pass the page cache by")
    options = parser.parse_args()
    operations = PassThrough(options.image, options.log, direct=options.direct)
    pyfuse3.init(operations, str(options.mountpoint), {"ro", "allow_other", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
        operations.close()


if __name__ == "__main__":
    main()
