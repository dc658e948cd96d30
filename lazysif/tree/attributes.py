"""What the kernel is told about an entry. Values, and how they follow from an image and its remote's policy."""

from __future__ import annotations

from dataclasses import dataclass

from lazysif.config.values import directory_mode
from lazysif.core.identity import inode_number
from lazysif.fetch.policy import RemotePolicy
from lazysif.model import EntryKind, Image, InodeNumber

_ENTRY_TIMEOUT_S = 1.0
_IMAGE_ATTR_TIMEOUT_S = 3600.0
_DIRECTORY_ATTR_TIMEOUT_S = 60.0


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


def image_attributes(number: InodeNumber, image: Image, policy: RemotePolicy) -> Attributes:
    """Of a file: an image never changes, its name may come to mean another one."""
    return Attributes(
        number=number,
        kind=EntryKind.FILE,
        size_bytes=image.size_bytes,
        mode=policy.mode,
        uid=policy.uid,
        gid=policy.gid,
        modified_s=image.modified_s,
        entry_timeout_s=min(_ENTRY_TIMEOUT_S, policy.revalidate_s),
        attr_timeout_s=_IMAGE_ATTR_TIMEOUT_S,
    )


def directory_attributes(number: InodeNumber, policy: RemotePolicy | None) -> Attributes:
    """Args: policy: of the remote that the directory belongs to; None for one of the mount itself."""
    return Attributes(
        number=number,
        kind=EntryKind.DIRECTORY,
        size_bytes=0,
        mode=directory_mode(policy.mode) if policy is not None else 0o555,
        uid=policy.uid if policy is not None else 0,
        gid=policy.gid if policy is not None else 0,
        modified_s=0,
        entry_timeout_s=_ENTRY_TIMEOUT_S,
        attr_timeout_s=_DIRECTORY_ATTR_TIMEOUT_S,
    )


def unresolved_attributes(
    policy: RemotePolicy | None, directory: str, name: str, kind: EntryKind
) -> Attributes:
    """Attributes for an entry that was listed and not asked for: enough for `ls`, believed for no time."""
    mode = policy.mode if policy is not None else 0o555
    return Attributes(
        number=inode_number(f"listed\0{directory}\0{name}"),
        kind=kind,
        size_bytes=0,
        mode=mode if kind is EntryKind.FILE else directory_mode(mode),
        uid=policy.uid if policy is not None else 0,
        gid=policy.gid if policy is not None else 0,
        modified_s=0,
        entry_timeout_s=0.0,
        attr_timeout_s=0.0,
    )
