"""Starts through lazysif: cold without and with a trace, warm, hot."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from bench.coldwarm.jobs import start_s
from bench.coldwarm.stage import NAME, PUT_BELOW, Meter, Stage
from bench.coldwarm.systems import timed
from lazysif.image.tracing import QUIET_S
from tests.support.mount import Mount

WRITTEN_S = 3.0
"""Time for blocks that have come to reach the disk."""
TRACES = "traces-v1"
"""In the state directory."""


REMOTE = "site"
"""The remote of a mount that has a configuration."""
OFFERED_S = QUIET_S + 3.0
"""Time for a start to be over, and its trace to be offered."""


def mount_at(root: Path, url: str | None = None, config: Path | None = None) -> Mount:
    """One of the two is given."""
    return Mount(
        root,
        url,
        config,
        # compiled modules, as an installation has them; the daemon's log level is the default
        environment={"PYTHONDONTWRITEBYTECODE": ""},
        log_level="info",
    )


def configured_at(root: Path, url: str, traces: str) -> Mount:
    """The same, with these lines in [traces]; its remote is `REMOTE`."""
    root.mkdir(exist_ok=True)
    config = root / "lazysif.toml"
    config.write_text(f'[traces]\n{traces}\n[remote.{REMOTE}]\nkind = "http"\nurl = "{url}"\n')
    return mount_at(root, config=config)


def plain_at(root: Path, url: str) -> Mount:
    """The same, of a daemon that leaves the page cache to the kernel."""
    return configured_at(root, url, "give_pages = false")


def image_of(mount: Mount) -> Path:
    """Where a mount has the image: below its remote, where it has a configuration that names one."""
    return mount.path / REMOTE / NAME if mount.config else mount.path / NAME


class Cold:
    """A new mount with an empty cache for each start, which nothing is known to."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def prepare(self, jobs: list[str]) -> None:
        pass

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        with ExitStack() as stack:
            room = self._stage.room("cold")
            stack.callback(shutil.rmtree, room, ignore_errors=True)
            mount = stack.enter_context(self.mount(room))
            self._stage.drop()
            with self._stage.metered() as meter:
                taken_s = timed(image_of(mount), job, herd)
        return taken_s, meter

    def mount(self, room: Path) -> Mount:
        return mount_at(room, self._stage.line.url)

    def close(self) -> None:
        pass


class Traced(Cold):
    """The same, with what one earlier start of each of some jobs has taught the node.

    Traces are taken from the state directory of mounts before, and nothing else of it. They were learned from an
    origin without a line: order counts, not time.
    """

    def __init__(
        self, stage: Stage, traces: Traces, *, of_heavy_only: bool = False, plain: bool = False
    ) -> None:
        super().__init__(stage)
        self._traces = traces
        self._of_heavy_only = of_heavy_only
        self._plain = plain
        self._learned = Path()

    def prepare(self, jobs: list[str]) -> None:
        self._learned = self._traces.of(["heavy"] if self._of_heavy_only else jobs)

    def mount(self, room: Path) -> Mount:
        shutil.copytree(self._learned, room / "state" / TRACES)
        return plain_at(room, self._stage.line.url) if self._plain else super().mount(room)


class Traces:
    """Learned once for each set of jobs, each job by a first start on an empty cache.

    Args:
        learned: directories by jobs, kept between profiles: a trace belongs to content, wherever that comes from.
    """

    def __init__(self, stage: Stage, learned: dict[tuple[str, ...], Path]) -> None:
        self._stage = stage
        self._learned = learned

    def of(self, jobs: list[str]) -> Path:
        """A directory with what starts of these jobs teach."""
        wanted = tuple(sorted(jobs))
        if wanted not in self._learned:
            room = self._stage.room("learned")
            for job in jobs:
                shutil.rmtree(room / "cache", ignore_errors=True)
                with mount_at(room, self._stage.origin.url) as mount:
                    self._stage.drop()
                    start_s(image_of(mount), job)
            self._learned[wanted] = room / "state" / TRACES
            if not any(self._learned[wanted].iterdir()):
                raise RuntimeError(f"no trace was learned from {', '.join(jobs)}")
        return self._learned[wanted]


class Shared(Cold):
    """A second node: its cache and state are empty, and what another node learned is in a share.

    The first node asks an origin without a line, and offers at once what it learned; the second finds the share
    where a site has it: a folder, or a web server at the far end of the line.
    """

    def __init__(self, stage: Stage, *, by_put: bool) -> None:
        super().__init__(stage)
        self._room = stage.room("shared")
        self._by_put = by_put

    def prepare(self, jobs: list[str]) -> None:
        (self._room / "folder").mkdir()
        for job in jobs:
            room = self._room / f"first-{job}"
            with self._node(room, self._stage.origin.url) as mount:
                self._stage.drop()
                start_s(image_of(mount), job)
                time.sleep(OFFERED_S)
            shutil.rmtree(room, ignore_errors=True)

    def _node(self, room: Path, url: str) -> Mount:
        share = f'url = "{url}/{PUT_BELOW}"\nput = true' if self._by_put else f'dir = "{self._room}/folder"'
        return configured_at(room, url, f"{share}\noffer_within = 0")

    def mount(self, room: Path) -> Mount:
        return self._node(room, self._stage.line.url)

    def close(self) -> None:
        shutil.rmtree(self._room, ignore_errors=True)


class Cache:
    """A mount whose cache has what the jobs need, for `Cached`."""

    def __init__(self, stage: Stage, *, plain: bool = False) -> None:
        self._stage = stage
        self._room = stage.room("cached")
        self._filled: set[str] = set()
        self.mount = (plain_at if plain else mount_at)(self._room, stage.line.url)

    @property
    def image(self) -> Path:
        return image_of(self.mount)

    def fill(self, jobs: list[str]) -> None:
        if not self.mount.is_mounted():
            self.mount.start()
        for job in jobs:
            if job not in self._filled:
                start_s(self.image, job)
                self._filled.add(job)
        self._stage.settle()
        time.sleep(WRITTEN_S)

    def close(self) -> None:
        try:
            self.mount.finish()
        finally:
            shutil.rmtree(self._room, ignore_errors=True)


class Cached:
    """Warm: a new daemon with an empty memory, the page cache just dropped. Hot: the second start of a job."""

    def __init__(self, stage: Stage, cache: Cache, *, hot: bool) -> None:
        self._stage = stage
        self._cache = cache
        self._hot = hot

    def prepare(self, jobs: list[str]) -> None:
        self._cache.fill(jobs)

    def run(self, job: str, herd: int) -> tuple[list[float], Meter]:
        image = self._cache.image
        if not self._hot:
            self._cache.mount.remount()
            self._stage.drop()
        elif not self._stage.is_hot(image, job):
            start_s(image, job)
        with self._stage.metered() as meter:
            taken_s = timed(image, job, herd)
        self._stage.ran(image, job)
        return taken_s, meter

    def close(self) -> None:
        self._cache.close()
