"""A day of a node's cache, compressed: run as a process of its own, so that its memory is the cache's and no more.

    python -m tests.support.churn DIRECTORY ROUNDS

DIRECTORY is on a small file system of its own. A round stands for a minute of a busy node: three starts of images
of which few are used often, each loads what its trace names and puts what is missing. Some pin what they bring. Every
so often another program takes most of the free space, or gives it back, and once an hour the daemon is restarted.
All spans of the cache are shortened like the day itself. Prints one JSON line: samples and totals.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.model import Digest, ImageId
from lazysif.telemetry import Counters
from tests.support.cache_damage import MIB, digest_of
from tests.support.stress import open_descriptors, rss_bytes

LIMIT_BYTES = 64 * MIB
FLOOR_BYTES = 8 * MIB
BLOCK_BYTES = 32 * 1024
BLOCKS = 400
IMAGES = 60
"""Of 12.5 MiB each: twelve times the cache."""
TOUCHED = 60
ROUNDS_AN_HOUR = 60
TICK_S = 0.02
RATIOS = (0.55, 0.8, 1.0)
"""Blocks' contents by how much of them is random; the first shrink."""


def content(image: int, index: int) -> bytes:
    chance = random.Random(image * 100_003 + index)
    size = BLOCK_BYTES - chance.randrange(8192)
    noise = chance.randbytes(int(size * chance.choice(RATIOS)))
    return noise + bytes(size - len(noise))


@dataclass
class Day:
    """The workload and what was seen of it."""

    directory: Path
    rounds: int
    chance: random.Random = field(default_factory=lambda: random.Random(24))
    counters: Counters = field(default_factory=Counters)
    samples: list[dict[str, int]] = field(default_factory=list)
    wrong: int = 0
    loaded: int = 0
    put: int = 0
    restarts: int = 0
    ballasts: int = 0
    skipped_samples: int = 0

    @property
    def ballast(self) -> Path:
        return self.directory.parent / "ballast"

    async def run(self) -> None:
        hours = -(-self.rounds // ROUNDS_AN_HOUR)
        for hour in range(hours):
            await self.hour(min(ROUNDS_AN_HOUR, self.rounds - hour * ROUNDS_AN_HOUR))
            self.restarts += 1

    async def hour(self, rounds: int) -> None:
        """One daemon's life."""
        settings = CacheSettings(
            self.directory,
            LIMIT_BYTES,
            min_free_bytes=FLOOR_BYTES,
            memory_bytes=4 * MIB,
            queue_bytes=4 * MIB,
            batch_bytes=2 * MIB,
            tick_s=TICK_S,
            touch_after_s=0.5,
            first_pause_s=0.01,
            longest_pause_s=0.1,
        )
        cache = BlockCache(settings, self.counters)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            for number in range(rounds):
                async with trio.open_nursery() as starts:
                    for _ in range(3):
                        image = min(int(self.chance.expovariate(0.08)), IMAGES - 1)
                        starts.start_soon(self.start, cache, image, random.Random(self.chance.random()))
                if number % 15 == 14:
                    self.other_programs()
                if number % 5 == 4:
                    await self.sample(cache)
            await cache.aclose()

    async def start(self, cache: BlockCache, image: int, chance: random.Random) -> None:
        """One start: blocks that its trace names, in four requests."""
        table = await cache.open_table(ImageId(f"{image:032x}"), BLOCKS)
        first = chance.randrange(BLOCKS - TOUCHED)
        pinned = image < 2 and chance.random() < 0.1
        for begin in range(first, first + TOUCHED, TOUCHED // 4):
            indices = range(begin, begin + TOUCHED // 4)
            known = {index: digest for index in indices if (digest := table.get(index)) is not None}
            found = await cache.load(list(known.values()))
            for index in indices:
                data = content(image, index)
                kept = found.get(known.get(index, Digest(b"")))
                if kept is not None:
                    self.loaded += 1
                    self.wrong += kept != data
                    continue
                await cache.wait_room(len(data))
                cache.put(digest_of(data), data, pinned)
                table.set(index, digest_of(data))
                self.put += 1

    def other_programs(self) -> None:
        """Take most of what is free above our floor and some of what we use, or give it all back."""
        self.ballasts += 1
        if self.ballast.exists():
            self.ballast.unlink()
            return
        free = os.statvfs(self.directory)
        size = free.f_bavail * free.f_frsize - FLOOR_BYTES // 2 + self.chance.randrange(-16, 4) * MIB
        with open(self.ballast, "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, MIB))
            except OSError:
                pass  # full is what it is for, too

    async def sample(self, cache: BlockCache) -> None:
        """When what waits is written and the next tick has passed."""
        with trio.move_on_after(5):
            while cache._queue.used_bytes:  # noqa: ASYNC110 - the writer gives no event
                await trio.sleep(0.002)
        await trio.sleep(3 * TICK_S)
        if cache.status().state != "normal":
            self.skipped_samples += 1
        gc.collect()
        found = os.statvfs(self.directory)
        self.samples.append(
            {
                "rss": rss_bytes(),
                "descriptors": open_descriptors(),
                "used": disk_usage(self.directory),
                "free": found.f_bavail * found.f_frsize,
                "said": cache.status().used_bytes,
            }
        )

    def report(self) -> dict[str, Any]:
        totals = ("wrong", "loaded", "put", "restarts", "ballasts", "skipped_samples")
        return {
            **{name: getattr(self, name) for name in totals},
            "counters": self.counters.snapshot(),
            "samples": self.samples,
        }


def disk_usage(directory: Path) -> int:
    """What all files below it occupy, without SQLite's index of its log, which lies in memory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512 if name != "cache.db-shm" else 0
            except FileNotFoundError:
                continue  # evicted meanwhile
    return total


def main() -> None:
    day = Day(Path(sys.argv[1]), int(sys.argv[2]))
    trio.run(day.run)
    print(json.dumps(day.report()))


if __name__ == "__main__":
    main()
