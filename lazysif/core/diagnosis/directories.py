"""The cache, state and runtime directories: whose they are, what they lie on, how much room and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.core.diagnosis.finding import Finding, format_span, note, ok, problem
from lazysif.sizes import format_size

SLOW_DISK_S = 1.0
"""For writing, syncing and reading 1 MiB: the cache writes behind the reads, but reads wait for its reads."""
FEW_INODES = 10_000
SMALL_ROOM_BYTES = 2 << 30
"""One image of ordinary size."""
_SHARED = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs", "panfs", "glusterfs")
)
_MEMORY = frozenset(("tmpfs", "ramfs"))
_LAYERED = frozenset(("overlay", "aufs"))


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """What was seen of one directory. `missing` ones are judged by the parent that is there."""

    path: str
    missing: bool
    is_link: bool
    is_directory: bool
    uid: int
    mode: int
    file_system: str
    total_bytes: int
    free_bytes: int
    inodes: int
    inodes_free: int
    can_be_made: bool = True
    """Whether this user may make what is missing."""


def directory_owner(what: str, facts: DirectoryFacts, uid: int) -> Finding:
    """Whether the daemon of user `uid` would take it, as `cache.directory.prepare_directory` decides."""
    check = f"{what} directory"
    if facts.missing and not facts.can_be_made:
        return problem(
            check,
            f"{facts.path} is missing, and this user cannot make it",
            f"make it for this user, or choose another one with --{what}-dir",
        )
    if facts.missing:
        return ok(check, f"{facts.path} will be made by the first mount")
    if facts.is_link or not facts.is_directory:
        kind = "a symbolic link" if facts.is_link else "not a directory"
        return problem(check, f"{facts.path} is {kind}", "name the directory itself")
    if facts.uid != uid:
        return problem(
            check,
            f"{facts.path} belongs to user {facts.uid}, not to user {uid}",
            f"choose one that user {uid} owns, or ask as user {facts.uid}",
        )
    if facts.mode & 0o022:
        return problem(
            check,
            f"{facts.path} has mode {facts.mode:04o}: others can write there, and no daemon starts with it",
            f"chmod go-w {facts.path}",
        )
    return ok(check, f"{facts.path}, mode {facts.mode:04o}")


def file_system(what: str, facts: DirectoryFacts) -> Finding:
    check = f"{what} file system"
    kind, where = facts.file_system, facts.path
    if kind in _SHARED:
        return problem(
            check,
            f"{where} is on {kind}: file locks and SQLite do not work well there, and it may stall",
            "use a directory on a local disk of each node",
        )
    if kind in _MEMORY:
        return note(check, f"{where} is on {kind}: it takes memory and is gone after a reboot", "use a disk")
    if kind in _LAYERED:
        return note(
            check, f"{where} is on {kind}: slow, and gone with its container", "use a volume or a disk"
        )
    if kind.startswith("fuse"):
        return note(check, f"{where} is on {kind}: it depends on another daemon", "use a local disk")
    return ok(check, kind or "unknown")


def space(facts: DirectoryFacts, limit_bytes: int, floor_bytes: int, used_bytes: int | None) -> Finding:
    """Args: used_bytes: by the cache itself, None if no daemon tells."""
    check = "cache space"
    free, used = facts.free_bytes, used_bytes or 0
    room = min(limit_bytes, free + used - floor_bytes)
    found = (
        f"{format_size(free)} of {format_size(facts.total_bytes)} free, limit {format_size(limit_bytes)}, "
        f"floor {format_size(floor_bytes)}"
    )
    if facts.inodes and facts.inodes_free < FEW_INODES:
        return problem(check, f"only {facts.inodes_free} inodes are free", "delete files or use another disk")
    if free < floor_bytes and used < SMALL_ROOM_BYTES:
        return problem(
            check, f"{found}: below the floor nothing is kept", "free space, or lower cache.min_free"
        )
    if room < min(limit_bytes, SMALL_ROOM_BYTES):
        return note(check, f"{found}: room for {format_size(max(0, room))}", "free space on that disk")
    return ok(check, found)


def disk_probe(what: str, seconds: float | None, error: str) -> Finding:
    """Args: seconds: for writing, syncing and reading back 1 MiB; None with `error`."""
    check = f"{what} disk"
    if seconds is None:
        return problem(
            check, f"1 MiB cannot be written and read back: {error}", "see dmesg; use another disk"
        )
    found = f"1 MiB written, synced and read in {format_span(seconds)}"
    if seconds > SLOW_DISK_S:
        return note(check, found, "a disk this slow may be sick or overloaded: see iostat -x and smartctl")
    return ok(check, found)


def on_own_mount(what: str, path: str) -> Finding:
    return problem(
        f"{what} directory", f"{path} lies on a mount of lazysif itself", "choose a directory on a disk"
    )
