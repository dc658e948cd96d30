"""What a remote's configuration says about names and versions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemotePolicy:
    """What a remote's configuration says about names and versions. Times in seconds.

    Args:
        spool_whole: download a file whole where its origin answers no ranges; else such a file is an error.
        origin: the remote's own address as people see it.
        asked_of: a mark of all that the configuration says of where names lead; with another one, what was said of
            a name before says nothing.
    """

    revalidate_s: float = 60.0
    negative_s: float = 5.0
    spool_whole: bool = True
    listing: bool = True
    origin: str = ""
    asked_of: str = ""
    probe_bytes: int = 256 << 10
    lookup_budget_s: float = 20.0
    stall_s: float = 20.0
    uid: int = 0
    gid: int = 0
    mode: int = 0o555
