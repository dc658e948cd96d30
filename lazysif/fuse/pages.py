"""The kernel's page cache of a mount: filled with what a job will read, and made to drop what must not be read.

It is filled by a process of its own (`read_pages`), which opens the image in the mount as any reader does, and has
the kernel ask the daemon for blocks that lie in its memory (posix_fadvise(2), POSIX_FADV_WILLNEED): one request a
block, where the job would send four to eight. The daemon tells that process by its pid, and counts its reads for
nothing. What it brings is charged to the daemon's memory cgroup, not to the job's; it is clean, and goes first when
memory is short.

FUSE_NOTIFY_STORE was as fast, and is not used: it waits for pages that are being read, unkillably, and holds the
connection meanwhile. Were all processes of a mount killed in such a moment, readers would hang until `umount -f`.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lazysif.fuse import drop_pages, read_pages
from lazysif.fuse.read_pages import ORDER
from lazysif.model import InodeNumber

log = logging.getLogger(__name__)

_LAST_S = 0.5


class Pages:
    """Args:
    mountpoint: absolute.
    fuse_fd: /dev/fuse of the mount, open for as long as this is used. `close` it.
    """

    def __init__(self, mountpoint: str, fuse_fd: int) -> None:
        self._mountpoint = mountpoint
        self._fuse_fd = fuse_fd
        self._reader: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the process that reads ahead: it is there in 15 ms, and needs 9 MB."""
        try:
            reader = subprocess.Popen(
                [*_python(read_pages.__file__), self._mountpoint], stdin=subprocess.PIPE, cwd="/"
            )
        except OSError as error:
            log.warning("nothing is read ahead into the page cache: %s", error)
            return
        assert reader.stdin is not None
        os.set_blocking(reader.stdin.fileno(), False)
        self._reader = reader

    def is_reader(self, pid: int) -> bool:
        """Whether a request comes from the process that reads ahead."""
        return self._reader is not None and self._reader.pid == pid

    def give(self, number: InodeNumber, path: str, offset: int, size: int) -> bool:
        """Have a piece read that lies in memory, soon; False where the process is behind, or not there."""
        return self._order(number, offset, size, os.fsencode(path))

    def let_go(self, number: InodeNumber) -> None:
        """Close the file: while it is open the mount is busy."""
        self._order(number, 0, 0, b"")

    def _order(self, number: InodeNumber, offset: int, size: int, path: bytes) -> bool:
        if self._reader is None or self._reader.stdin is None:
            return False
        order = ORDER.pack(number, offset, size, len(path)) + path
        if len(order) > select.PIPE_BUF:
            return False
        try:
            os.write(self._reader.stdin.fileno(), order)  # whole or not at all (pipe(7))
        except BlockingIOError:
            return False
        except OSError as error:
            log.warning("nothing is read ahead into the page cache any more: %s", error)
            self.close()
            return False
        return True

    def drop(self, numbers: Iterable[InodeNumber]) -> None:
        """Have the kernel forget all bytes of files, and wait for it; not to be called on the trio thread."""
        command = [*_python(drop_pages.__file__), *map(str, (self._fuse_fd, *numbers))]
        try:
            subprocess.run(command, pass_fds=[self._fuse_fd], stdin=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            log.error("the kernel may still have pages of a refused image: %s", error)

    def close(self) -> None:
        """Have nothing read any more; the process ends by itself, and half a second is waited for that."""
        reader, self._reader = self._reader, None
        if reader is None:
            return
        assert reader.stdin is not None
        reader.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            reader.wait(_LAST_S)


def _python(program: str) -> list[str]:
    """Not -m, and without site packages: neither needs any."""
    return [sys.executable, "-I", "-S", str(Path(program).resolve())]
