"""Blocks, caches and ways to damage what they left on disk."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3

from lazysif.cache.block_cache import BlockCache
from lazysif.cache.cache_settings import CacheSettings
from lazysif.model import Digest
from lazysif.telemetry import Counters

MIB = 2**20


def block(seed: int, size: int = 20_000) -> bytes:
    """Incompressible content, another for each seed."""
    return random.Random(seed).randbytes(size)


def digest_of(data: bytes) -> Digest:
    return Digest(blake3(data).digest())


def command(*words: object) -> None:
    """Run a command of the system; it takes milliseconds and must succeed."""
    subprocess.run([str(word) for word in words], check=True)


def fill_up(path: Path) -> None:
    """Take all space of a file system."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def row(directory: Path, digest: Digest, columns: str = "filename") -> Any:
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as database:
        found = database.execute(f"SELECT {columns} FROM Cache WHERE key = ?", (digest,)).fetchone()
    return None if found is None else found[0]


def value_file(directory: Path, digest: Digest) -> Path:
    return directory / "frames-v1" / row(directory, digest)


def change_rows(directory: Path, statement: str, *arguments: object) -> None:
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as database:
        database.execute(statement, arguments)
        database.commit()


def plant_frames(directory: Path, count: int) -> None:
    """Rows of 128 KiB each, used in turn, whose files are missing."""
    rows = ((os.urandom(32), 1, 5e9 + n, 131072, 2, f"{n % 16:x}/{n:032x}.val") for n in range(count))
    with closing(sqlite3.connect(directory / "frames-v1/cache.db")) as database:
        database.executemany(
            "INSERT INTO Cache (key, raw, expire_time, size, mode, filename) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        database.commit()


def value_files(directory: Path) -> set[Path]:
    return set((directory / "frames-v1").rglob("*.val"))


@asynccontextmanager
async def running(
    directory: Path, counters: Counters | None = None, **settings: Any
) -> AsyncIterator[BlockCache]:
    """A block cache that keeps nothing in memory, so that each load asks the disk, and forgives quickly."""
    defaults: dict[str, Any] = {
        "limit_bytes": 1024 * MIB,
        "memory_bytes": 0,
        "tick_s": 0.02,
        "gather_s": 0.0,
        "first_pause_s": 0.02,
        "longest_pause_s": 0.1,
        "touch_after_s": 0.0,
    }
    cache = BlockCache(
        CacheSettings(directory, **{**defaults, **settings}), counters if counters is not None else Counters()
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        try:
            yield cache
        finally:
            await cache.aclose()


async def eventually(claim: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until something that other threads bring about is true."""
    with trio.fail_after(within_s):
        while not claim():  # noqa: ASYNC110 - other threads give no event
            await trio.sleep(0.005)


async def written(cache: BlockCache) -> None:
    """Wait until nothing is queued any more."""
    await eventually(lambda: cache._queue.used_bytes == 0)


async def fill(cache: BlockCache, blocks: list[bytes], pinned: bool = False) -> list[Digest]:
    """Put blocks and wait until they lie on disk."""
    digests = [digest_of(data) for data in blocks]
    for digest, data in zip(digests, blocks, strict=True):
        await cache.wait_room(len(data))
        cache.put(digest, data, pinned)
    await written(cache)
    return digests
