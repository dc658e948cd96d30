"""Where an image can be started from, without lazysif: the local disk, a whole download, a mount by rclone."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench.coldwarm.jobs import herd_s, start_s
from bench.coldwarm.stage import NAME, Meter, Stage
from tests.support.mount import mounted_at, wait_until

RCLONE_FLAGS = (
    "--read-only",
    "--vfs-cache-mode=full",
    "--vfs-read-chunk-size=1M",
    "--vfs-read-chunk-size-limit=1M",
    "--buffer-size=0",
    "--vfs-read-ahead=0",
    "--dir-cache-time=1h",
    "--attr-timeout=1h",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One start, or one herd of them, that was measured; `seconds` of a herd are those of its last start."""

    profile: str
    job: str
    system: str
    round: int
    herd: int
    seconds: float
    median_s: float
    fetched_bytes: int
    in_time_bytes: int
    requests: int
    twice_bytes: int

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        return self.profile, self.job, self.system, self.round, self.herd


class System(Protocol):
    """One way to start an image; `close` undoes what `prepare` and `run` made."""

    def prepare(self, jobs: list[str]) -> None:
        """What is made once, before the rounds."""

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        """Start a job once, or `herd` times at once; returns seconds and what came over the line."""

    def close(self) -> None: ...


def timed(image: Path, job: str, herd: int) -> list[float]:
    return herd_s(image, job, herd) if herd > 1 else [start_s(image, job)]


def run_of(
    stage: Stage, name: str, job: str, number: int, herd: int, taken_s: list[float], meter: Meter
) -> Run:
    return Run(
        profile=stage.profile.name,
        job=job,
        system=name,
        round=number,
        herd=herd,
        seconds=round(taken_s[-1], 4),
        median_s=round(taken_s[len(taken_s) // 2], 4),
        **asdict(meter),
    )


class Local:
    """The file on the local disk, its page cache just dropped or still hot."""

    def __init__(self, stage: Stage, *, cold: bool) -> None:
        self._stage = stage
        self._cold = cold

    def prepare(self, jobs: list[str]) -> None:
        pass

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        image = self._stage.image
        if self._cold:
            self._stage.drop()
        elif not self._stage.is_hot(image, job):
            start_s(image, job)
        with self._stage.metered() as meter:  # there is none: all systems start after the same pause
            taken_s = timed(image, job, herd)
        self._stage.ran(image, job)
        return taken_s, meter

    def close(self) -> None:
        pass


class Download:
    """The whole image first, by curl, then the job from what the page cache still has of it.

    The download is timed once: it knows nothing of the job, and takes minutes.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._directory = stage.room("download")
        self._download_s = 0.0
        self._meter = Meter()

    def prepare(self, jobs: list[str]) -> None:
        target = self._directory / NAME
        with self._stage.metered() as self._meter:
            began_s = time.monotonic()
            subprocess.run(
                ["curl", "--silent", "--fail", "--noproxy", "*", "--output", str(target), self._stage.url],
                check=True,
            )
            self._download_s = time.monotonic() - began_s

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        image = self._directory / NAME
        if not self._stage.is_hot(image, job):
            subprocess.run(
                ["cat", str(image)], stdout=subprocess.DEVNULL, check=True
            )  # as the download left it
        taken_s = [self._download_s + seconds for seconds in timed(image, job, herd)]
        self._stage.ran(image, job)
        return taken_s, self._meter

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class Rclone:
    """A new rclone mount with an empty cache for each start, its flags the best that were found."""

    def __init__(self, stage: Stage, flags: tuple[str, ...] = RCLONE_FLAGS) -> None:
        self._stage = stage
        self._flags = flags

    def prepare(self, jobs: list[str]) -> None:
        pass

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        with ExitStack() as stack:
            room = self._stage.room("rclone")
            stack.callback(shutil.rmtree, room, ignore_errors=True)
            mountpoint = room / "mnt"
            mountpoint.mkdir()
            command = ["rclone", "mount", ":http:", str(mountpoint), f"--http-url={self._stage.line.url}",
                       "--config=", f"--cache-dir={room}/cache", *self._flags]  # fmt: skip
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(_end, process, mountpoint)
            wait_until(lambda: bool(mounted_at(mountpoint)), "rclone did not mount")
            self._stage.drop()
            with self._stage.metered() as meter:
                taken_s = timed(mountpoint / NAME, job, herd)
        return taken_s, meter

    def close(self) -> None:
        pass


def _end(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    subprocess.run(["umount", str(mountpoint)], check=False, capture_output=True)
    if mounted_at(mountpoint):
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
