"""Damage at scale: a thousand frames of a million are damaged, and not one of them is served.

CI builds 20,000 frames; LAZYSIF_FULL=1 builds 1,000,000 (about 4 GB on disk and some minutes). The frames are small
and go into the store as all others do: encoded, named by digest, through `FrameStore.write_many`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from lazysif.cache.frame import encode
from lazysif.cache.fsck import check_offline
from lazysif.cache.fsck_online import OnlineFsck
from lazysif.cache.fsck_report import Kind, Report
from lazysif.cache.store import FrameStore
from lazysif.telemetry import Counters
from tests.support.cache_damage import digest_of, running
from tests.support.stress import FULL, rss_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FRAMES = 1_000_000 if FULL else 20_000
DAMAGED = 1_000
BATCH = 5_000
ASKED = 256
"""Blocks that are asked for at a time."""
KINDS = ("flipped", "truncated", "zeroed", "swapped")


def content(number: int) -> bytes:
    """Some 90 to 130 bytes, another for each number; every fourth can be compressed."""
    if number % 4 == 0:
        return f"{number:09d} ".encode() * 13
    return random.Random(number).randbytes(90 + number % 40)


def batches() -> Iterator[range]:
    for first in range(0, FRAMES, BATCH):
        yield range(first, min(first + BATCH, FRAMES))


def build(directory: Path) -> None:
    store = FrameStore(directory)
    store.open()
    for numbers in batches():
        blocks = [content(number) for number in numbers]
        store.write_many((digest_of(data), encode(digest_of(data), data), False) for data in blocks)
    store.close()


def change(path: Path, kind: str, chance: random.Random) -> None:
    """Damage one file, as a new file: the other copy has links to the old one."""
    frame = bytearray(path.read_bytes())
    if kind == "flipped":
        frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    elif kind == "truncated":
        del frame[chance.randrange(len(frame)) :]
    else:
        frame = bytearray(len(frame))
    path.unlink()
    path.write_bytes(frame)


def damage(directory: Path) -> set[int]:
    """Damage `DAMAGED` frames at random; returns their numbers."""
    chance = random.Random(2026)
    numbers = chance.sample(range(FRAMES), DAMAGED)
    by_kind = {kind: numbers[first :: len(KINDS)] for first, kind in enumerate(KINDS)}
    paths = dict(zip(numbers, find_files(directory, numbers), strict=True))
    for kind in KINDS[:3]:
        for number in by_kind[kind]:
            change(paths[number], kind, chance)
    swapped = by_kind["swapped"]
    for one, other in zip(swapped[::2], swapped[1::2], strict=True):
        aside = paths[one].with_suffix(".aside")
        paths[one].rename(aside)
        paths[other].rename(paths[one])
        aside.rename(paths[other])
    return set(numbers)


def find_files(directory: Path, numbers: list[int]) -> list[Path]:
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as base:
        statement = "SELECT filename FROM Cache WHERE key = ? AND raw = 1"
        names = [base.execute(statement, (digest_of(content(n)),)).fetchone()[0] for n in numbers]
    return [directory / "frames-v1" / name for name in names]


def copy(source: Path, target: Path) -> None:
    """The database is copied, the value files are linked: nobody writes into one."""
    shutil.copytree(
        source,
        target,
        copy_function=lambda a, b: os.link(a, b) if a.endswith(".val") else shutil.copy(a, b),
    )
    target.chmod(0o700)


async def read_all(directory: Path, damaged: set[int], counters: Counters) -> tuple[set[int], list[int]]:
    """Load every frame; returns what was not served, and what was served wrong."""
    missing: set[int] = set()
    wrong: list[int] = []
    async with running(directory, counters, memory_bytes=2**20, limit_bytes=2**40) as cache:
        for numbers in batches():
            for first in range(numbers.start, numbers.stop, ASKED):
                asked = range(first, min(first + ASKED, numbers.stop))
                blocks = {digest_of(data): (n, data) for n in asked for data in [content(n)]}
                found = await cache.load(list(blocks))
                for digest, (number, data) in blocks.items():
                    if digest not in found:
                        missing.add(number)
                    elif found[digest] != data:
                        wrong.append(number)
    return missing, wrong


def timed(figures: dict[str, float], name: str, call: Callable[[], object]) -> object:
    began = time.monotonic()
    value = call()
    figures[name] = round(time.monotonic() - began, 1)
    return value


def check(directory: Path, *, dry_run: bool) -> Report:
    return check_offline(directory, dry_run=dry_run, tell=lambda _: None)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Two copies of a million files would be kept by pytest for three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_of_a_million_frames_none_that_is_damaged_is_served(directory: Path) -> None:
    figures: dict[str, float] = {"frames": FRAMES, "damaged": DAMAGED}
    one, other = directory / "one", directory / "other"
    timed(figures, "build_s", lambda: build(one))
    damaged = damage(one)
    timed(figures, "copy_s", lambda: copy(one, other))

    before = rss_bytes()
    dry = timed(figures, "dry_run_s", lambda: check(other, dry_run=True))
    assert isinstance(dry, Report)
    assert dry.frames == FRAMES
    assert {kind: n for kind, n in dry.found.items() if n} == {Kind.FRAMES: DAMAGED}
    report = timed(figures, "fsck_s", lambda: check(other, dry_run=False))
    assert isinstance(report, Report)
    assert {kind: n for kind, n in report.found.items() if n} == {Kind.FRAMES: DAMAGED}
    again = check(other, dry_run=False)
    assert again.clean
    assert again.frames == FRAMES - DAMAGED
    figures["fsck_rss_growth_mib"] = round((rss_bytes() - before) / 2**20, 1)
    assert figures["fsck_rss_growth_mib"] < 64
    assert lost(other) == damaged

    counters = Counters()
    read = timed(figures, "read_all_s", lambda: trio.run(read_all, one, damaged, counters))
    assert read == (damaged, [])
    assert counters.frames_quarantined == DAMAGED
    assert counters.unexpected_errors == counters.cache_read_errors == 0
    figures["rss_growth_mib"] = round((rss_bytes() - before) / 2**20, 1)
    assert check(one, dry_run=False).clean
    print(json.dumps(figures))


def lost(directory: Path) -> set[int]:
    """Numbers of the frames that a store has no more."""
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as base:
        statement = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
        return {n for n in range(FRAMES) if not base.execute(statement, (digest_of(content(n)),)).fetchone()}


async def test_a_check_beside_readers_does_not_hold_them_up(directory: Path) -> None:
    """Loads of four blocks of 128 KiB from disk, with and without a check under way."""
    counters = Counters()
    chance = random.Random(7)
    blocks = [chance.randbytes(128 * 1024) for _ in range(1000)]
    async with running(directory, counters, limit_bytes=2**40) as cache, trio.open_nursery() as nursery:
        digests = [digest_of(data) for data in blocks]
        for digest, data in zip(digests, blocks, strict=True):
            await cache.wait_room(len(data))
            cache.put(digest, data)
        while cache._queue.used_bytes:  # noqa: ASYNC110 - the writer gives no event
            await trio.sleep(0.01)

        async def load_some() -> list[float]:
            times = []
            for _ in range(400):
                began = time.perf_counter()
                assert len(await cache.load(chance.sample(digests, 4))) == 4
                times.append(time.perf_counter() - began)
                await trio.sleep(0.002)
            return sorted(times)

        async def check_on_and_on() -> None:
            while True:
                await fsck.run(Report(str(directory), online=True))

        fsck = OnlineFsck(cache, nursery, counters)
        alone = await load_some()
        nursery.start_soon(check_on_and_on)
        beside = await load_some()
        nursery.cancel_scope.cancel()
    figures = {
        name: {"median_ms": round(t[200] * 1e3, 2), "p99_ms": round(t[396] * 1e3, 2)}
        for name, t in (("alone", alone), ("beside_fsck", beside))
    }
    print(json.dumps(figures))
    assert beside[200] < 2 * alone[200] + 0.002
    assert beside[396] < 2 * alone[396] + 0.02
