"""What is mounted where, from /proc/self/mountinfo (proc(5)); asking it touches no mount."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountedAt:
    """One mount: its path, device as `major:minor`, type and source."""

    path: str
    device: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[MountedAt]:
    """Mounts in the order they were made; lines that do not fit are passed over."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if separator and len(fields) >= 5 and len(rest) >= 2:
            mounts.append(MountedAt(_plain(fields[4]), fields[2], rest[0], _plain(rest[1])))
    return mounts


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)


def mounts() -> list[MountedAt]:
    """All mounts that this process sees."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))


def find_mount(path: str) -> MountedAt | None:
    """The topmost mount at exactly this absolute path."""
    return next((mount for mount in reversed(mounts()) if mount.path == path), None)
