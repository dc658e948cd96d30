"""What any system pays here: the local file with the line busy beside it, and through FUSE by other hands."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench.coldwarm.stage import Meter, Stage
from bench.coldwarm.systems import timed
from tests.support.mount import mounted_at, wait_until


class Beside:
    """The local file, page cache dropped, while curl brings what the job touches and throws it away.

    Origin, line, and the kernel's part of taking the bytes in share the machine with the job; nothing waits for them.

    Args:
        touched: bytes of the image that each job touches.
    """

    def __init__(self, stage: Stage, touched: dict[str, int]) -> None:
        self._stage = stage
        self._touched = touched

    def prepare(self, jobs: list[str]) -> None:
        pass

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        self._stage.drop()
        with self._stage.metered() as meter:
            last = self._touched[job] - 1
            command = ["curl", "--silent", "--fail", "--noproxy", "*", "--range", f"0-{last}"]
            curl = subprocess.Popen([*command, "--output", "/dev/null", self._stage.url])
            taken_s = timed(self._stage.image, job, herd)
            if curl.wait():
                raise RuntimeError(f"curl ended with {curl.returncode}")
        self._stage.ran(self._stage.image, job)
        return taken_s, meter

    def close(self) -> None:
        pass


class Fuse:
    """The local file, page cache dropped, through fuse-overlayfs: a file system of FUSE in C that only hands on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._room = stage.room("fuse")
        self._stack = ExitStack()

    def prepare(self, jobs: list[str]) -> None:
        self._stack.callback(shutil.rmtree, self._room, ignore_errors=True)
        lower, mountpoint = self._room / "lower", self._room / "mnt"
        for directory in (lower, mountpoint):
            directory.mkdir()
        (lower / self._stage.image.name).hardlink_to(self._stage.image)
        subprocess.run(["fuse-overlayfs", "-o", f"lowerdir={lower}", str(mountpoint)], check=True)
        self._stack.callback(subprocess.run, ["umount", str(mountpoint)], check=False)
        wait_until(lambda: bool(mounted_at(mountpoint)), "fuse-overlayfs did not mount")

    @property
    def _image(self) -> Path:
        return self._room / "mnt" / self._stage.image.name

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        self._stage.drop()
        with self._stage.metered() as meter:  # there is none: all systems start after the same pause
            taken_s = timed(self._image, job, herd)
        self._stage.ran(self._image, job)
        return taken_s, meter

    def close(self) -> None:
        self._stack.close()
