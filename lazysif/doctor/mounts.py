"""Looks at mounts of lazysif from outside: /proc, /sys and control sockets. Never at the mount itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lazysif import __version__
from lazysif.control.address import socket_path
from lazysif.control.client import fetch_status
from lazysif.core.diagnosis import mounts as diagnosis
from lazysif.core.diagnosis.finding import Finding, note, problem
from lazysif.core.diagnosis.mounts import MountFacts
from lazysif.fuse.mountinfo import MountedAt, mounts

_CONNECTIONS = Path("/sys/fs/fuse/connections")


@dataclass(frozen=True, slots=True)
class Server:
    """A keeper or daemon, and the mountpoint that its command line names."""

    pid: int
    role: str
    mountpoint: str
    state: str
    """As in /proc/PID/stat: T is stopped, D waits in the kernel."""


def servers() -> list[Server]:
    """All that this process sees."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
            state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue  # it has ended
        for position, word in enumerate(words[:-1]):
            role = "daemon" if word == "lazysif.serve" else "keeper" if _is_keeper(word) else ""
            if role:
                found.append(Server(int(entry.name), role, words[position + 1], state))
                break
    return found


def _is_keeper(word: str) -> bool:
    return word.endswith("lazysif/keeper.py")


def own_mounts() -> list[MountedAt]:
    """Mounts of lazysif; where several are stacked at one path, the last."""
    return list({mount.path: mount for mount in mounts() if mount.kind == "fuse.lazysif"}.values())


def waiting(mount: MountedAt) -> int | None:
    """Requests of this mount that are not answered yet; None where fusectl does not tell us."""
    try:
        return int((_CONNECTIONS / mount.device.partition(":")[2] / "waiting").read_text())
    except (OSError, ValueError):
        return None


def mount(mounted: MountedAt) -> Iterator[Finding]:
    """One mount: whether its daemon answers, and if not, why."""
    serving = {server.role: server for server in servers() if server.mountpoint == mounted.path}
    stopped = tuple(server.pid for server in serving.values() if server.state in "Tt")
    status = {}
    if not stopped:
        try:
            status = fetch_status(socket_path(mounted.path))
        except OSError:
            pass  # judged below
    yield diagnosis.mount(
        MountFacts(
            path=mounted.path,
            owner_uid=_owner(mounted),
            answers=bool(status),
            waiting=waiting(mounted),
            daemon_pid=serving["daemon"].pid if "daemon" in serving else None,
            keeper_pid=serving["keeper"].pid if "keeper" in serving else None,
            stopped=stopped,
            version=str(status.get("version", "")),
            restarts=int(status.get("restarts", 0)),
            cache_state=str(status.get("cache", {}).get("state", "")),
            errors=int(status.get("counters", {}).get("errors", 0)),
            device_minor=mounted.device.partition(":")[2],
            has_socket=socket_path(mounted.path).exists(),
        ),
        os.geteuid(),
        __version__,
    )


def not_mounted(mountpoint: str) -> Iterator[Finding]:
    """A mountpoint that somebody asks about and nothing of ours is at."""
    check = f"mount {mountpoint}"
    if os.path.isdir(mountpoint):
        yield note(check, "nothing is mounted there", f"lazysif mount ... {mountpoint}")
    else:
        yield problem(check, "not a directory", f"mkdir -p {mountpoint}")


def _owner(mounted: MountedAt) -> int:
    """The user who mounted it, as the kernel lists it (`user_id=`)."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        if f" {mounted.device} " in line and (match := re.search(r"\buser_id=(\d+)", line)):
            return int(match[1])
    return 0
