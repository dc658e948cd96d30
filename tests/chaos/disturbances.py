"""The table: what is done to a mount, how it is undone, what readers may meet meanwhile, and what must tell of it."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.referee import GRACE_S, OFFLINE_GRACE_S
from tests.chaos.stage import REVALIDATE_S, Stage
from tests.chaos.worker import NAMES
from tests.support import faults
from tests.support.cache_damage import command, fill_up
from tests.support.raw_origin import Fault

Play = Callable[[Stage, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One line of the table.

    Args:
        does: in words, for the report.
        play: a context manager: done on entry, undone on exit, whatever happens.
        span_s: how long it lasts, between these two.
        reads: errnos that opens and reads may end in; nothing but bytes where it is empty.
        jobs: whether loop mounts, squashfuse and starts of Apptainer may fail.
        only: the image that readers may miss; "" for all.
        stops: whether the daemon is stopped meanwhile.
        counters: at least one of these must have grown.
        says: what the log must say of it.
        restarts: how many daemons must have been started.
        excuses_age: whether opens may give a version that was replaced long ago.
        grace_s: how long after its end readers may still meet its errors.
        disk: whether it begins with a daemon whose disk never ailed, and ends when the cache is in use again.
    """

    name: str
    does: str
    play: Play
    span_s: tuple[float, float]
    reads: frozenset[str] = frozenset()
    jobs: bool = False
    only: str = ""
    stops: bool = False
    counters: tuple[str, ...] = ()
    says: str = ""
    restarts: int = 0
    excuses_age: bool = False
    grace_s: float = GRACE_S
    disk: bool = False


# --- the daemon ----------------------------------------------------------------------------------------------


@contextmanager
def killed(stage: Stage, chance: random.Random) -> Iterator[None]:
    stage.kill_daemon()
    yield


@contextmanager
def upgraded(stage: Stage, chance: random.Random) -> Iterator[None]:
    stage.upgrade()
    yield


@contextmanager
def stopped(stage: Stage, chance: random.Random) -> Iterator[None]:
    """SIGSTOP; SIGCONT at the end, if it has not been replaced."""
    pid = stage.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # the keeper has replaced it


@contextmanager
def starved(stage: Stage, chance: random.Random) -> Iterator[None]:
    """The daemon may open no further descriptor; sockets that the origin closes cannot be replaced."""
    pid = stage.pid()
    before = _limit_of_files(pid)
    command("prlimit", f"--pid={pid}", f"--nofile=4:{before[1]}")
    stage.origin.drop_connections()
    try:
        yield
    finally:
        # it may have been replaced meanwhile
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={before[0]}:{before[1]}"], check=False)


def _limit_of_files(pid: int) -> tuple[str, str]:
    done = subprocess.run(
        ["prlimit", f"--pid={pid}", "--nofile", "--raw", "--noheadings", "-o", "SOFT,HARD"],
        capture_output=True,
        text=True,
        check=True,
    )
    soft, hard = done.stdout.split()
    return soft, hard


# --- the origin ----------------------------------------------------------------------------------------------


def answering(*choice: Fault) -> Play:
    """Every request is answered by one of these faults, drawn once for the episode."""

    @contextmanager
    def play(stage: Stage, chance: random.Random) -> Iterator[None]:
        stage.origin.default = chance.choice(choice)
        try:
            yield
        finally:
            stage.origin.default = None
            stage.origin.drop_connections()

    return play


@contextmanager
def slow(stage: Stage, chance: random.Random) -> Iterator[None]:
    stage.origin.delay_s = chance.uniform(0.2, 0.5)
    try:
        yield
    finally:
        stage.origin.delay_s = 0.0


@contextmanager
def dropping(stage: Stage, chance: random.Random) -> Iterator[None]:
    stage.origin.drop_connections()
    yield
    stage.origin.drop_connections()


@contextmanager
def replaced(stage: Stage, chance: random.Random) -> Iterator[None]:
    stage.publish()
    yield
    stage.publish()
    time.sleep(2 * REVALIDATE_S)


@contextmanager
def without_names(stage: Stage, chance: random.Random) -> Iterator[None]:
    """The host is not in the hosts file any more, and no connection that was made before is left."""
    stage.know_the_host(False)
    stage.origin.drop_connections()
    try:
        yield
    finally:
        stage.know_the_host(True)


# --- the disks -----------------------------------------------------------------------------------------------


def full(which: str) -> Play:
    @contextmanager
    def play(stage: Stage, chance: random.Random) -> Iterator[None]:
        filler = stage.root / which / "filler"
        try:
            fill_up(filler)
            yield
        finally:
            filler.unlink()

    return play


def _frames(stage: Stage) -> list[Path]:
    return sorted((stage.root / "cache/frames-v1").rglob("*.val"))


@contextmanager
def bits_flipped(stage: Stage, chance: random.Random) -> Iterator[None]:
    """One bit in each frame that lies on the disk."""
    for path in _frames(stage):
        try:
            with path.open("r+b") as file:
                where = chance.randrange(max(1, path.stat().st_size))
                file.seek(where)
                (byte,) = file.read(1) or b"\0"
                file.seek(where)
                file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        except FileNotFoundError:
            continue  # evicted meanwhile
    yield


@contextmanager
def files_removed(stage: Stage, chance: random.Random) -> Iterator[None]:
    """Each second frame, and the block tables."""
    for path in _frames(stage)[::2]:
        path.unlink(missing_ok=True)
    shutil.rmtree(stage.root / "cache/tables-v1", ignore_errors=True)
    yield


@contextmanager
def emptied(stage: Stage, chance: random.Random) -> Iterator[None]:
    """All of the cache below its lock: database, frames, tables."""
    for name in ("frames-v1", "tables-v1"):
        shutil.rmtree(stage.root / "cache" / name, ignore_errors=True)
    yield


@contextmanager
def read_only(stage: Stage, chance: random.Random) -> Iterator[None]:
    """A read-only mount of the same directory lies over it.

    Made elsewhere: over the cache it would be busy with files being written before it is read-only.
    """
    directory, elsewhere = stage.root / "cache", stage.root / "images"
    command("mount", "--bind", directory, elsewhere)
    try:
        command("mount", "-o", "remount,bind,ro", elsewhere)
        command("mount", "--bind", elsewhere, directory)
    finally:
        command("umount", elsewhere)
    try:
        yield
    finally:
        command("umount", "-l", directory)


@contextmanager
def dead(stage: Stage, chance: random.Random) -> Iterator[None]:
    """EXT4_IOC_SHUTDOWN: each access is an I/O error; at the end another disk is mounted there."""
    directory = stage.root / "cache"
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x8004587D, struct.pack("<I", 2))
    finally:
        os.close(fd)
    try:
        yield
    finally:
        command("umount", "-l", directory)
        stage.put_in_a_disk()


# --- the table -----------------------------------------------------------------------------------------------

UNREACHABLE = frozenset({"EIO", "ETIMEDOUT"})
HEALTHY_S = (2.0, 4.0)
"""Shorter than `read_timeout`, in which a reader must see it through."""
TOO_LONG_S = (11.0, 14.0)

TABLE = (
    Disturbance("kill", "`kill -9` of the daemon", killed, (0.5, 1.5), says="exit code -9", restarts=1),
    Disturbance("upgrade", "`lazysif upgrade`", upgraded, (0.5, 1.5), says="serves after", restarts=1),
    Disturbance("doze", "SIGSTOP of the daemon, SIGCONT after 2 to 4 s", stopped, HEALTHY_S, stops=True),
    Disturbance(
        "freeze",
        "SIGSTOP of the daemon for good",
        stopped,
        (14.0, 15.0),
        stops=True,
        says="it said nothing for",
        restarts=1,
        excuses_age=True,
    ),
    Disturbance(
        "descriptors",
        "no further descriptor for the daemon (`prlimit`), connections broken",
        starved,
        HEALTHY_S,
        counters=("retries",),
        excuses_age=True,
    ),
    Disturbance(
        "descriptors for long",
        "the same for longer than `read_timeout`",
        starved,
        TOO_LONG_S,
        reads=UNREACHABLE,
        jobs=True,
        counters=("errors",),
        excuses_age=True,
        grace_s=OFFLINE_GRACE_S,
    ),
    Disturbance(
        "stall",
        "the origin is silent for 2 to 4 s",
        answering(faults.StallBeforeHead(), faults.StallAfterHead(), faults.StallMidBody(1000)),
        HEALTHY_S,
        counters=("retries",),
        excuses_age=True,
    ),
    Disturbance(
        "stall for long",
        "the origin is silent for longer than `read_timeout`",
        answering(faults.StallBeforeHead(), faults.StallAfterHead(), faults.StallMidBody(1000)),
        TOO_LONG_S,
        reads=UNREACHABLE,
        jobs=True,
        counters=("errors",),
        says="in time|within",
        excuses_age=True,
        grace_s=OFFLINE_GRACE_S,
    ),
    Disturbance("slow", "each answer comes 0.2 to 0.5 s late", slow, HEALTHY_S, counters=("fetch_requests",)),
    Disturbance("drop", "all connections are closed", dropping, (0.5, 1.5), counters=("fetch_requests",)),
    Disturbance(
        "reset",
        "connections are reset in the body or before the head, answers are 503 or not HTTP, for 2 to 4 s",
        answering(
            faults.ResetMidBody(1000),
            faults.CloseBeforeAnswer(reset=True),
            faults.Status(503),
            faults.Garbage(),
            faults.ShortBody(1000),
        ),
        HEALTHY_S,
        counters=("retries",),
        excuses_age=True,
    ),
    Disturbance(
        "reset for long",
        "the same for longer than `read_timeout`",
        answering(faults.ResetMidBody(1000), faults.CloseBeforeAnswer(reset=True), faults.Status(503)),
        TOO_LONG_S,
        reads=UNREACHABLE,
        jobs=True,
        counters=("errors",),
        excuses_age=True,
        grace_s=OFFLINE_GRACE_S,
    ),
    Disturbance(
        "lie",
        "the origin sends other ranges, lengths, totals or codings than asked for",
        answering(
            faults.WrongContentRange(shift=1),
            faults.WrongContentRange(missing=True),
            faults.ShortRange(1000),
            faults.LongBody(),
            faults.GzipOnRange(),
            faults.Multipart(),
        ),
        HEALTHY_S,
        reads=frozenset({"EIO"}),
        jobs=True,
        counters=("errors",),
        says="Content-Range|Content-Length|request for|gzip|several parts",
        excuses_age=True,
    ),
    Disturbance(
        "refuse",
        "the origin answers 401 or 403",
        answering(faults.unauthorized(), faults.Status(403)),
        HEALTHY_S,
        reads=frozenset({"EACCES"}),
        jobs=True,
        counters=("errors",),
        says=r"\(40[13]\)",
        excuses_age=True,
    ),
    Disturbance(
        "vanish",
        "the origin has no such file any more (404)",
        answering(faults.Status(404)),
        HEALTHY_S,
        reads=frozenset({"ENOENT", "ESTALE"}),
        jobs=True,
        counters=("probe_requests",),
        excuses_age=True,
    ),
    Disturbance(
        "another version's answers",
        "other ETags than the one that was opened, If-Match ignored",
        answering(faults.ChangedEtag()),
        HEALTHY_S,
        reads=frozenset({"ESTALE", "EIO"}),
        jobs=True,
        counters=("image_changes", "errors"),
        excuses_age=True,
    ),
    Disturbance(
        "replace",
        "an image is replaced, twice, by a version of another size",
        replaced,
        HEALTHY_S,
        reads=frozenset({"ESTALE"}),
        only=NAMES[1],
        counters=("image_changes", "revalidations"),
    ),
    Disturbance(
        "DNS",
        "the origin's name cannot be resolved for 2 to 4 s, connections broken",
        without_names,
        HEALTHY_S,
        counters=("fetch_requests",),
        excuses_age=True,
    ),
    Disturbance(
        "DNS for long",
        "the same for longer than `read_timeout`",
        without_names,
        TOO_LONG_S,
        reads=UNREACHABLE,
        jobs=True,
        # libcurl knows an address for a minute, and then nobody notices anything
        counters=("fetch_requests",),
        excuses_age=True,
        grace_s=OFFLINE_GRACE_S,
    ),
    Disturbance(
        "full disk",
        "the cache's disk is full",
        full("cache"),
        HEALTHY_S,
        counters=("cache_write_errors", "cache_dropped_writes", "frames_evicted"),
        disk=True,
    ),
    Disturbance("full state disk", "the disk of inode numbers and names is full", full("state"), HEALTHY_S),
    Disturbance(
        "flipped bits",
        "one bit in each frame on disk",
        bits_flipped,
        HEALTHY_S,
        counters=("frames_quarantined",),
        says="is deleted and will be fetched again",
        disk=True,
    ),
    Disturbance(
        "removed files",
        "each second frame and all block tables are deleted",
        files_removed,
        HEALTHY_S,
        counters=("frames_quarantined", "cache_read_errors"),
        disk=True,
    ),
    Disturbance("emptied cache", "all files of the cache are deleted", emptied, HEALTHY_S, disk=True),
    Disturbance(
        "read-only disk",
        "the cache's directory is read-only",
        read_only,
        HEALTHY_S,
        counters=("cache_write_errors",),
        says="read-only",
        disk=True,
    ),
    Disturbance(
        "dead disk",
        "each access to the cache's disk is an I/O error; then another, empty disk is there",
        dead,
        HEALTHY_S,
        counters=("cache_read_errors", "cache_write_errors"),
        disk=True,
    ),
)
BY_NAME = {disturbance.name: disturbance for disturbance in TABLE}
