"""Where a path leads, found without ever asking a mount of lazysif: one that is stuck would hold us."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lazysif.fuse.mountinfo import mounts

_MOST_LINKS = 40


class OnOwnMount(Exception):
    """The path leads into a mount of lazysif."""


def own_mountpoints() -> list[str]:
    return [mount.path for mount in mounts() if mount.kind == "fuse.lazysif"]


def lies_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == d or path.startswith(d.rstrip("/") + "/") for d in directories)


def lead(path: str | Path, *, last_link: bool = True) -> str:
    """The path without links; parts that are missing are taken as they are.

    Args:
        last_link: follow a link at the very end, too.

    Raises:
        OnOwnMount: it leads into a mount of lazysif; nothing there was asked.
        OSError: too many links.
    """
    ours = own_mountpoints()
    todo = [part for part in os.path.abspath(path).split("/") if part][::-1]
    done = "/"
    links = 0
    while todo:
        part = todo.pop()
        done = os.path.normpath(os.path.join(done, part))
        if lies_below(done, ours):
            raise OnOwnMount(done)
        if not todo and not last_link:
            break
        try:
            target = os.readlink(done)
        except OSError:
            continue  # not a link, or not there
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"too many links: {path}")
        todo += [piece for piece in target.split("/") if piece][::-1]
        done = "/" if target.startswith("/") else os.path.dirname(done)
    return done
