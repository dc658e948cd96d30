"""The mount itself: kernel options, readahead, the main loop, the end. With `operations` the only home of pyfuse3."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pyfuse3

from lazysif.errors import MountError
from lazysif.fuse.mountinfo import find_mount
from lazysif.fuse.operations import Operations

log = logging.getLogger(__name__)

MAX_HANDLERS = 1000
"""pyfuse3 runs 99 at once by default: 99 stalled reads would keep `getattr` waiting. A handler costs a receive
buffer of 1 MiB of which the kernel touches the pages it writes."""

_MAX_BACKGROUND = 256
"""Requests that the kernel sends without a waiting process (readahead). Its default of 12 is used up by one
stalled reader, and then cached reads of everybody queue in the kernel."""


def mount(operations: Operations, mountpoint: str, options: Sequence[str], source: str) -> None:
    """Attach to the kernel; the mount answers once `serve` runs.

    Raises:
        MountError: the mountpoint or the kernel refuses; what libfuse said is on standard error.
    """
    # max_read must not be passed: libfuse demands that the connection agrees, and pyfuse3 cannot say it
    kernel_options = {"default_permissions", "ro", "subtype=lazysif", f"fsname={_escaped(source)}", *options}
    try:
        pyfuse3.init(operations, mountpoint, kernel_options)
    except RuntimeError as error:
        raise MountError(
            f"cannot mount at {mountpoint}: {error}",
            hint="is /dev/fuse there and yours to open, fusermount3 installed, and the directory yours? "
            "allow_other needs user_allow_other in /etc/fuse.conf",
        ) from error


def _escaped(source: str) -> str:
    """libfuse splits options at commas."""
    return source.replace("\\", "\\\\").replace(",", "\\,")


async def serve() -> None:
    """Answer the kernel until the mount is gone or `stop` is called."""
    await pyfuse3.main(min_tasks=4, max_tasks=MAX_HANDLERS)


def stop() -> None:
    """End `serve`, from the trio thread."""
    pyfuse3.terminate()


def unmount() -> None:
    """Detach from the kernel; harmless if the mount is gone already."""
    pyfuse3.close(unmount=True)


def tune(mountpoint: str, read_ahead_kb: int) -> None:
    """Set the kernel's readahead for this mount and raise its limit of background requests, where root may.

    To be called once the mount has answered: the kernel sets both anew when it reads the reply to INIT. The device
    number comes from /proc, which touches no mount.
    """
    found = find_mount(mountpoint)
    if found is None:
        return
    _write(Path(f"/sys/class/bdi/{found.device}/read_ahead_kb"), read_ahead_kb)
    minor = found.device.partition(":")[2]
    for name, value in (
        ("max_background", _MAX_BACKGROUND),
        ("congestion_threshold", _MAX_BACKGROUND * 3 // 4),
    ):
        _write(Path(f"/sys/fs/fuse/connections/{minor}/{name}"), value)


def _write(path: Path, value: int) -> None:
    if os.geteuid() != 0:
        return
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        log.info("%s stays as it is: %s", path, error.strerror)
