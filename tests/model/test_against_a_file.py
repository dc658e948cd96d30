"""Generated lives of a daemon against plain bytes: what is read is right or an error that the table allows.

Operations: open, read (alone and together), restart, and everything that may happen to the cache and the origin.
The oracle knows which bytes an inode number stood for when it was given out, and never anything else.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazysif.errors import (
    DeadlineExceeded,
    ImageChanged,
    LazysifError,
    SourceProtocolError,
    SourceUnavailable,
)
from lazysif.fetch.fetcher import FetchLimits
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import InodeNumber
from tests.support.cache_damage import written
from tests.support.fake_transport import (
    FakeTransport,
    Fault,
    File,
    Headers,
    Longer,
    Refused,
    ResetAfter,
    Short,
    Stall,
    Status,
)
from tests.support.world import World, quiet_log, world

BLOCK = 4096
SIZES = (0, 1, BLOCK, 5 * BLOCK + 7, *[200 * BLOCK + 1] * 3)
NAMES = ("a.sif", "b.sif")

FAULTS: dict[str, Fault] = {
    "reset": ResetAfter(5000),
    "reset at once": ResetAfter(0),
    "short": Short(9000),
    "refused": Refused(),
    "503": Status(503),
    "stall": Stall(3000),
    "longer": Longer(),
    "wrong range": Headers({"content-range": "bytes 7-4102/999999"}),
    "coded": Headers({"content-encoding": "gzip"}),
}


@dataclass(frozen=True)
class Open:
    name: str


@dataclass(frozen=True)
class Read:
    """`which` handle, from the newest; `at` and `size` in thousandths of the image, and a bit more."""

    which: int
    at: int
    size: int


@dataclass(frozen=True)
class ReadWhole:
    which: int


@dataclass(frozen=True)
class ReadTogether:
    reads: tuple[Read, ...]


@dataclass(frozen=True)
class Replace:
    name: str
    size: int
    ranges: bool = True
    etag: bool = True
    modified: bool = True


@dataclass(frozen=True)
class Trouble:
    """The next requests fail."""

    faults: tuple[str, ...]


@dataclass(frozen=True)
class Restart:
    """What happens between two lives: "" nothing, or damage to what lies on disk."""

    damage: str = ""
    seed: int = 0
    memory_bytes: int = 1 << 20
    limit_bytes: int = 1 << 30


@dataclass(frozen=True)
class Damage:
    """The same while the daemon lives."""

    damage: str
    seed: int


@dataclass(frozen=True)
class Settle:
    """Until what was fetched lies on disk, and half a second's memory of failures has passed."""


DAMAGES = (
    "a frame",
    "frames",
    "cut frames",
    "the table",
    "cut table",
    "delete the cache",
    "database",
    "swap frames",
)
reads = st.builds(Read, st.integers(0, 2), st.integers(0, 1010), st.sampled_from([1, 13, 100, 700]))
damages = st.sampled_from(DAMAGES)
operations = st.one_of(
    st.builds(Open, st.sampled_from(NAMES)),
    st.builds(Open, st.sampled_from(NAMES)),
    *[reads] * 6,
    *[st.builds(ReadWhole, st.integers(0, 2))] * 2,
    st.builds(ReadTogether, st.lists(reads, min_size=2, max_size=5).map(tuple)),
    st.builds(
        Replace, st.sampled_from(NAMES), st.sampled_from(SIZES), st.booleans(), st.booleans(), st.booleans()
    ),
    st.builds(
        Trouble, st.lists(st.sampled_from([*FAULTS, "another version"]), min_size=1, max_size=4).map(tuple)
    ),
    st.builds(
        Restart,
        st.sampled_from(["", *DAMAGES]),
        st.integers(0, 9),
        st.sampled_from([0, 5 * BLOCK, 1 << 20]),
        st.sampled_from([200_000, 1 << 30]),
    ),
    st.builds(Damage, damages, st.integers(0, 9)),
    st.just(Settle()),
)
Operation = Open | Read | ReadWhole | ReadTogether | Replace | Trouble | Restart | Damage | Settle

POLICY = RemotePolicy(
    revalidate_s=0.0, negative_s=0.0, listing=False, probe_bytes=BLOCK, lookup_budget_s=1.5, stall_s=0.02
)
LIMITS = FetchLimits(
    connections=4, background_connections=2, read_budget_s=0.6, whole_file_budget_s=0.6, stall_s=0.02
)
TROUBLE_S = 2.0
"""How long after a fault a failure may come: the budget of a read, and the second that it is remembered."""


@dataclass
class Content:
    """What an inode number may stand for: one version, or where the origin gives no validator, that which its
    one download met. Each read tells more; never again may another one be seen."""

    name: str
    size: int
    nameless: bool
    versions: list[bytes]


@dataclass
class Model:
    """The oracle, and the daemon beside it."""

    directory: Path
    origin: FakeTransport
    handles: list[InodeNumber] = field(default_factory=list)
    content: dict[InodeNumber, Content] = field(default_factory=dict)
    tainted: set[InodeNumber] = field(default_factory=set)
    last_trouble: float = -1e9
    versions: int = 0
    it: World | None = None

    @property
    def troubled(self) -> bool:
        """Whether an error may still stem from a fault."""
        if self.origin.script:
            self.last_trouble = trio.current_time()
        return trio.current_time() - self.last_trouble < TROUBLE_S

    def replace(self, step: Replace) -> None:
        self.versions += 1
        data = random.Random(f"{self.versions}").randbytes(step.size)
        modified = f"Thu, 01 Jan 2026 11:{self.versions % 60:02d}:00 GMT"
        self.origin.files["/" + step.name] = File(
            data,
            f'"v{self.versions}"' if step.etag else None,
            modified if step.modified else None,
            step.ranges,
        )
        for content in self.content.values():
            if content.nameless and content.name == step.name and content.size == len(data):
                content.versions.append(data)

    def fault(self, name: str) -> Fault:
        if name != "another version":
            return FAULTS[name]
        self.versions += 1
        return Headers({"etag": f'"v{self.versions}"', "last-modified": None})

    def file(self, name: str) -> File:
        found = self.origin.files["/" + name]
        assert isinstance(found, File)
        return found

    def excused(self, error: LazysifError, number: InodeNumber) -> None:
        """An error must have a reason among those that the test brought about."""
        content = self.content[number]
        file = self.file(content.name)
        replaced = all(file.data is not version for version in content.versions)
        match error:
            case ImageChanged():
                assert replaced or content.nameless or self.troubled or number in self.tainted, (
                    f"ESTALE without a cause: {error}"
                )
            case SourceProtocolError() | SourceUnavailable() | DeadlineExceeded():
                assert self.troubled or (replaced and not file.ranges), f"EIO without a cause: {error}"
            case _:
                raise AssertionError(f"no error for a read: {error!r}") from error

    async def open(self, name: str) -> None:
        assert self.it is not None
        before = self.file(name)
        try:
            number = await self.it.open(name)
        except LazysifError:
            if not self.troubled:
                raise
            return
        if number not in self.content:
            # a version that is new to the kernel can only be the one that lies at the origin
            nameless = not before.etag and not before.modified
            self.content[number] = Content(name, len(before.data), nameless, [before.data])
        content = self.content[number]
        assert (await self.it.tree.attributes(number)).size_bytes == content.size
        if self.troubled:
            self.tainted.add(number)
        else:
            assert before.data in content.versions, "a stale version without a cause"
        self.handles.append(number)

    async def read(self, step: Read | ReadWhole) -> None:
        assert self.it is not None
        if not self.handles:
            return
        number = self.handles[-1 - step.which % len(self.handles)]
        content = self.content[number]
        offset, size = 0, content.size + 10
        if isinstance(step, Read):
            offset, size = content.size * step.at // 1000, max(1, content.size * step.size // 1000)
        try:
            got = await self.it.read(number, offset, size)
        except LazysifError as error:
            self.excused(error, number)
            return
        assert len(got) == max(0, min(size, content.size - offset)), "not as many bytes as there are"
        content.versions = [data for data in content.versions if data[offset : offset + size] == got]
        assert content.versions, "other bytes"

    async def step(self, step: Operation) -> None:
        assert self.it is not None
        _ = self.troubled
        match step:
            case Open():
                await self.open(step.name)
            case Read() | ReadWhole():
                await self.read(step)
            case ReadTogether():
                async with trio.open_nursery() as nursery:
                    for one in step.reads:
                        nursery.start_soon(self.read, one)
            case Replace():
                self.replace(step)
            case Trouble():
                self.origin.script.extend(map(self.fault, step.faults))
            case Damage():
                with suppress(OSError):  # the daemon writes and evicts meanwhile
                    damage(self.directory / "cache", step.damage, step.seed)
            case Settle():
                with trio.move_on_after(2):
                    await written(self.it.cache)


def damage(cache: Path, what: str, seed: int) -> None:
    """Do to the cache directory what a sick disk or a person may do."""
    rng = random.Random(seed)
    frames = sorted((cache / "frames-v1").rglob("*.val"))
    tables = sorted((cache / "tables-v1").glob("*.table"))
    match what:
        case "a frame" | "frames" | "cut frames":
            for path in frames if what != "a frame" else frames[:1]:
                _spoil(path, rng, cut=what == "cut frames")
        case "swap frames":
            for a, b in pairwise(frames):
                content = a.read_bytes()
                a.write_bytes(b.read_bytes())
                b.write_bytes(content)
        case "the table" | "cut table":
            for path in tables:
                _spoil(path, rng, cut=what == "cut table")
        case "database":
            for path in cache.glob("frames-v1/cache.db"):
                _spoil(path, rng, cut=False)
        case "delete the cache":
            for path in list(cache.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _spoil(path: Path, rng: random.Random, *, cut: bool) -> None:
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if cut:
            file.truncate(rng.randrange(size + 1))
            return
        for _ in range(3):
            file.seek(rng.randrange(max(size, 1)))
            file.write(bytes([rng.randrange(256)]))


def lives(steps: list[Operation]) -> Iterator[tuple[Restart, list[Operation]]]:
    life, first = [], Restart()
    for step in steps:
        if isinstance(step, Restart):
            yield first, life
            life, first = [], step
        else:
            life.append(step)
    yield first, life


async def play(steps: list[Operation], directory: Path) -> None:
    model = Model(directory, FakeTransport(chunk_bytes=3000))
    for name in NAMES:
        model.replace(Replace(name, SIZES[-1]))
    for restart, life in lives(steps):
        if restart.damage:
            damage(directory / "cache", restart.damage, restart.seed)
        async with AsyncExitStack() as stack:
            model.it = await stack.enter_async_context(
                world(
                    directory,
                    model.origin,
                    policy=POLICY,
                    limits=LIMITS,
                    cache={"memory_bytes": restart.memory_bytes, "limit_bytes": restart.limit_bytes},
                    starts={"quiet_s": 0.02, "jitter_s": 0.0},
                    read_timeout_s=3.0,
                    whole_file_timeout_s=3.0,
                    lookup_timeout_s=3.0,
                )
            )
            for step in life:
                await model.step(step)
            assert model.it.counters.unexpected_errors == 0
    assert model.origin.under_way == 0, "a request outlived its daemon"


def run(steps: list[Operation]) -> None:
    # memory, where there is one: SQLite of thousands of lives on a slow disk would be all that is measured
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with quiet_log(), tempfile.TemporaryDirectory(dir=parent) as directory:
        trio.run(play, steps, Path(directory))


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(operations, min_size=4, max_size=25).map(lambda steps: [Open(NAMES[0]), *steps]))
def test_generated_lives(steps: list[Operation]) -> None:
    run(steps)
