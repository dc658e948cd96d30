"""One profile's stage: an origin in memory, the line to it, an image on the local disk, and room for mounts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.coldwarm.jobs import drop_page_cache
from bench.coldwarm.line import Profile, measured
from bench.nginx import LoggedRequest, Nginx
from bench.shaper import Shaper

NAME = "image.sif"
PUT_BELOW = "traces"
"""Where the origin takes what nodes write."""
QUIET_S = 0.3
"""An origin that has answered nothing for so long has no more to answer, ..."""
SETTLE_S = 20.0
"""... or it goes on for longer than anybody wants to wait."""
MEMORY = Path("/dev/shm")


@dataclass
class Meter:
    """What came over the line between two moments.

    `fetched_bytes` counts all that came to the node, headers included and until the line fell silent;
    `in_time_bytes` what had come when the job ended. `twice_bytes` is what the origin sent more than once.
    """

    fetched_bytes: int = 0
    in_time_bytes: int = 0
    requests: int = 0
    twice_bytes: int = 0


@dataclass
class Stage:
    """Everything that the systems need to start a job; use `on_stage`."""

    profile: Profile
    image: Path
    work: Path
    origin: Nginx
    line: Shaper
    measured: dict[str, float] = field(default_factory=dict)
    _hot: set[tuple[Path, str]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Of the image, over the line."""
        return f"{self.line.url}/{NAME}"

    def room(self, name: str) -> Path:
        """A new empty directory."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    def drop(self) -> None:
        drop_page_cache()
        self._hot.clear()

    def is_hot(self, image: Path, job: str) -> bool:
        """Whether the job has run from there since the page cache was dropped."""
        return (image, job) in self._hot

    def ran(self, image: Path, job: str) -> None:
        self._hot.add((image, job))

    @contextmanager
    def metered(self) -> Iterator[Meter]:
        """Count what comes over the line while the block runs, and afterwards until the line is silent."""
        meter = Meter()
        self.settle()
        self.origin.clear_log()
        before = self.line.delivered_bytes()
        yield meter
        meter.in_time_bytes = self.line.delivered_bytes() - before
        self.settle()
        meter.fetched_bytes = self.line.delivered_bytes() - before
        requests = self.origin.requests(f"/{NAME}")
        meter.requests = len(requests)
        meter.twice_bytes = twice_bytes(requests)

    def settle(self) -> None:
        deadline_s = time.monotonic() + SETTLE_S
        before = -1
        while (now := self.line.delivered_bytes()) != before and time.monotonic() < deadline_s:
            before = now
            time.sleep(QUIET_S)


def twice_bytes(requests: list[LoggedRequest]) -> int:
    """Bytes of the image that were sent more than once."""
    twice = furthest = 0
    for start, stop in sorted(filter(None, (request.sent for request in requests))):
        twice += max(min(stop, furthest) - start, 0)
        furthest = max(furthest, stop)
    return twice


@contextmanager
def on_stage(profile: Profile, image: Path, work: Path) -> Iterator[Stage]:
    """Serve a copy of the image from memory: dropping the page cache must not slow the origin down, nor may
    its copy warm the local file."""
    with ExitStack() as stack:
        served = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="served-", dir=_serving(image, work)))
        )
        served.chmod(0o755)
        shutil.copyfile(image, served / NAME)
        (served / PUT_BELOW).mkdir()
        origin = stack.enter_context(Nginx(served, server="dav_methods PUT; dav_access user:rw all:r;"))
        line = stack.enter_context(
            Shaper(origin.port, round_trip_s=profile.round_trip_s, bits_per_s=profile.bits_per_s)
        )
        size_bytes = image.stat().st_size
        yield Stage(profile, image, work, origin, line, measured(line, f"/{NAME}", profile, size_bytes))


def _serving(image: Path, work: Path) -> Path:
    """Where the origin keeps its copy: in memory, if that has room for it twice."""
    try:
        free = os.statvfs(MEMORY)
    except FileNotFoundError:
        return work
    return MEMORY if free.f_bavail * free.f_frsize > 2 * image.stat().st_size else work
