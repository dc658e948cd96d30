"""The mount itself: kernel options, readahead, the main loop, the end. With `operations` the only home of pyfuse3."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio

from lazysif.core.asked import Asked
from lazysif.errors import MountError
from lazysif.fuse.mountinfo import find_mount, mounts
from lazysif.fuse.operations import Operations

log = logging.getLogger(__name__)

MAX_HANDLERS = 1000
"""pyfuse3 runs 99 at once by default: 99 stalled reads would keep `getattr` waiting. A handler costs a receive
buffer of 1 MiB of which the kernel touches the pages it writes."""

_MAX_BACKGROUND = MAX_HANDLERS
"""Requests that the kernel sends without a waiting process: readahead, and with it nearly every read. Its default of
12 is used up by a dozen stalled readers, and then reads of everybody queue in the kernel, cached or not. The daemon
has to see them all, so that it refuses what is too much (`tree`)."""

_FUSECTL = Path("/sys/fs/fuse/connections")
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_MNT_DETACH = 2


class KeptConnection:
    """The kernel's connection as the keeper hands it to a daemon (see `lazysif.keeper`).

    Args:
        fuse_fd: /dev/fuse of the live mount.
        init_fd: a socket that holds the kernel's INIT request; libfuse takes it for /dev/fuse until `take_over`.
        life: where the keeper hears how we are.
        asked: since when requests wait in it.
    """

    def __init__(self, fuse_fd: int, init_fd: int, life: socket.socket, asked: Asked) -> None:
        self.asked = asked
        self.taken_over = trio.Event()
        self.fuse_fd = fuse_fd
        self._init_fd = init_fd
        self._life = life
        life.setblocking(False)

    def attach(self, operations: Operations) -> None:
        """Make the session; `serve` then reads INIT and calls `take_over`. Raises: MountError."""
        operations.on_init = self.take_over
        try:
            pyfuse3.init(operations, f"/dev/fd/{self._init_fd}", {"default_permissions"})
        except RuntimeError as error:
            raise MountError(f"the connection to the kernel cannot be used: {error}") from error

    def take_over(self) -> None:
        """INIT was read from the socket: the reply and all that follows go to the kernel.

        A reply to an INIT that was answered before is refused with ENOENT, which libfuse passes over. It is sent when
        this returns and before any task runs: who waits for `taken_over` finds the kernel answered.
        """
        os.dup2(self.fuse_fd, self._init_fd)
        self.taken_over.set()
        self.asked.began(time.monotonic())
        self.say(b"serving")

    def say(self, message: bytes) -> None:
        """Tell the keeper; without one the daemon serves on."""
        try:
            self._life.send(message)
        except OSError as error:
            log.debug("the keeper does not hear: %s", error)


_serving = False
"""pyfuse3 has one session in a process. Asked to end it before or after, it crashes (a null pointer in libfuse)."""


async def serve() -> None:
    """Answer the kernel until the mount is gone or `stop` is called."""
    global _serving
    _serving = True
    try:
        await pyfuse3.main(min_tasks=4, max_tasks=MAX_HANDLERS)
    finally:
        _serving = False


def stop() -> None:
    """End `serve`, from the trio thread; nothing where it has ended or has not begun."""
    if _serving:
        pyfuse3.terminate()


def close() -> None:
    """Let go of the connection; the mount is the keeper's."""
    pyfuse3.close(unmount=False)


def tune(mountpoint: str, read_ahead_kb: int) -> None:
    """Set the kernel's readahead for this mount and raise its limit of background requests, where root may.

    To be called once INIT is answered: the kernel sets both anew when it reads the reply. The device number comes
    from /proc, which touches no mount: a daemon that waits for its own mount cannot be killed. Where anything fails,
    they stay as they are: a mount that is not tuned serves all the same.
    """
    try:
        _tune(mountpoint, read_ahead_kb)
    except OSError as error:
        log.warning("%s is not tuned: %s", mountpoint, error)


def _tune(mountpoint: str, read_ahead_kb: int) -> None:
    """Raises: OSError."""
    found = find_mount(mountpoint)
    if found is None:
        return
    _write(Path(f"/sys/class/bdi/{found.device}/read_ahead_kb"), read_ahead_kb)
    minor = found.device.partition(":")[2]
    with _fusectl() as connections:
        for name, value in (
            ("max_background", _MAX_BACKGROUND),
            ("congestion_threshold", _MAX_BACKGROUND * 3 // 4),
        ):
            _write(connections / minor / name, value)


@contextmanager
def _fusectl() -> Iterator[Path]:
    """Where the kernel's limits of FUSE connections are; in a container often nobody has mounted them."""
    if os.geteuid() != 0 or any(mount.path == str(_FUSECTL) for mount in mounts()):
        yield _FUSECTL
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="lazysif-fusectl-") as directory:
        path = directory.encode()
        if libc.mount(b"none", path, b"fusectl", _MS_NOSUID_NODEV_NOEXEC, None) != 0:
            log.info("fusectl cannot be mounted: %s", os.strerror(ctypes.get_errno()))
            yield _FUSECTL
            return
        try:
            yield Path(directory)
        finally:
            libc.umount2(path, _MNT_DETACH)


def _write(path: Path, value: int) -> None:
    """Root may, and of the limits of a connection its owner."""
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        log.info("%s stays as it is: %s", path, error.strerror)
