"""Looks at the cache, state and runtime directories, and writes and reads 1 MiB where a cache will be."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from lazysif.config.tables import CacheConfig
from lazysif.control.address import runtime_directory
from lazysif.control.client import fetch_status
from lazysif.core.diagnosis import directories as diagnosis
from lazysif.core.diagnosis.directories import DirectoryFacts
from lazysif.core.diagnosis.finding import Finding
from lazysif.doctor.paths import OnOwnMount, lead, lies_below
from lazysif.fuse.mountinfo import mounts

_PROBE_BYTES = 1 << 20


def cache(config: CacheConfig) -> Iterator[Finding]:
    facts = _facts(config.dir)
    yield from _findings("cache", config.dir, facts)
    if facts is not None:
        limit, floor = config.size.resolve(facts.total_bytes), config.min_free.resolve(facts.total_bytes)
        yield diagnosis.space(facts, limit, floor, _used_bytes(config.dir))


def state(directory: Path) -> Iterator[Finding]:
    yield from _findings("state", directory, _facts(directory))


def runtime() -> Iterator[Finding]:
    directory = runtime_directory()
    facts = _facts(directory)
    if facts is None:
        yield diagnosis.on_own_mount("runtime", str(directory))
    else:
        yield diagnosis.directory_owner("runtime", facts, os.geteuid())


def _findings(what: str, directory: Path, facts: DirectoryFacts | None) -> Iterator[Finding]:
    if facts is None:
        yield diagnosis.on_own_mount(what, str(directory))
        return
    yield diagnosis.directory_owner(what, facts, os.geteuid())
    yield diagnosis.file_system(what, facts)
    if not facts.missing and facts.is_directory:
        yield _probe(what, directory)


def _facts(directory: Path) -> DirectoryFacts | None:
    """None where it lies on a mount of lazysif, of which nothing was asked."""
    try:
        real = lead(directory, last_link=False)
        target = lead(real)
    except OnOwnMount:
        return None
    nearest = Path(target)
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    status = os.lstat(real) if os.path.lexists(real) else os.lstat(nearest)
    disk = os.statvfs(nearest)
    return DirectoryFacts(
        path=str(directory),
        missing=not os.path.lexists(real),
        is_link=stat.S_ISLNK(status.st_mode),
        is_directory=stat.S_ISDIR(status.st_mode),
        uid=status.st_uid,
        mode=stat.S_IMODE(status.st_mode),
        file_system=_file_system(str(nearest)),
        total_bytes=disk.f_blocks * disk.f_frsize,
        free_bytes=disk.f_bavail * disk.f_frsize,
        inodes=disk.f_files,
        inodes_free=disk.f_favail,
        can_be_made=os.access(nearest, os.W_OK | os.X_OK, effective_ids=True),
    )


def _file_system(path: str) -> str:
    """The type of the mount that holds it: the longest path wins, and of those at one path the last."""
    holding = [mount for mount in mounts() if lies_below(path, [mount.path])]
    return max(reversed(holding), key=lambda mount: len(mount.path)).kind if holding else ""


def _probe(what: str, directory: Path) -> Finding:
    began_s = time.monotonic()
    path = directory / f".doctor-{os.getpid()}"
    data = os.urandom(_PROBE_BYTES)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.unlink(path)  # before the write, which may be the one that never returns
            os.pwrite(fd, data, 0)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(fd, _PROBE_BYTES, 0) != data:
                return diagnosis.disk_probe(what, None, "other bytes came back than were written")
        finally:
            os.close(fd)
    except OSError as error:
        return diagnosis.disk_probe(what, None, str(error.strerror))
    return diagnosis.disk_probe(what, time.monotonic() - began_s, "")


def _used_bytes(directory: Path) -> int | None:
    """By the cache there, if its daemon tells."""
    for path in runtime_directory().glob("*.sock"):
        try:
            cache = fetch_status(path)["cache"]
            if cache["directory"] == str(directory):
                return int(cache["used_bytes"])
        except TimeoutError:
            return None  # others may be as slow; the mount's own line says it
        except (OSError, KeyError, ValueError):
            continue
    return None
