"""What the kernel is told about an entry. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.model import EntryKind, InodeNumber


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of one inode. Timeouts in seconds: how long the kernel may believe the name and the rest."""

    number: InodeNumber
    kind: EntryKind
    size_bytes: int
    mode: int
    uid: int
    gid: int
    modified_s: int
    entry_timeout_s: float
    attr_timeout_s: float


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One entry of a directory as readdir gives it; `position` is where the next call goes on."""

    name: str
    attributes: Attributes
    position: int
