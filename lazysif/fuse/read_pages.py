"""Has the kernel read pieces of images into its page cache before a job asks for them.

    read_pages.py MOUNTPOINT

The orders come on standard input, one after the other: `ORDER`, then a path below the mountpoint. Size 0 closes a
file; so does a pause, so that nothing keeps a mount busy that nobody uses. One piece at a time: the next one when the
daemon has answered. Ends with the daemon. Standard library only.

It is a process, not a thread of the daemon, because it waits for the mount that the daemon serves
(docs/concurrency.md, rule 9); and it holds no /dev/fuse, so that it never keeps a connection alive which nobody
answers.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys

ORDER = struct.Struct("<QQII")
"""Inode number, offset, bytes to read, bytes of the path that follows."""
PAUSE_S = 1.0
_NONE = -1


class Files:
    """Those that are open, by inode number; `_NONE` for one that cannot be opened, until it is closed."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = os.fsencode(mountpoint)
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def read(self, number: int, path: bytes, offset: int, size: int) -> None:
        """Raises: OSError."""
        if number not in self._open:
            self._open[number] = _NONE
            self._open[number] = self._opened(number, path)
        fd = self._open[number]
        if fd == _NONE:
            return
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)  # one request, whatever the readahead is
        os.pread(fd, 1, offset + size - 1)  # returns when that is answered

    def _opened(self, number: int, path: bytes) -> int:
        """Raises: OSError."""
        fd = os.open(os.path.join(self._mountpoint, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if os.fstat(fd).st_ino == number:
            return fd
        os.close(fd)  # the name means another version now
        return _NONE

    def close(self, number: int) -> None:
        fd = self._open.pop(number, _NONE)
        if fd != _NONE:
            os.close(fd)

    def close_all(self) -> None:
        for number in list(self._open):
            self.close(number)


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, and its end is ours
    files = Files(sys.argv[1])
    while True:
        if files and not select.select([0], [], [], PAUSE_S)[0]:
            files.close_all()
        order = os.read(0, ORDER.size)
        if len(order) < ORDER.size:
            return 0
        number, offset, size, length = ORDER.unpack(order)
        path = os.read(0, length) if length else b""
        if not size:
            files.close(number)
            continue
        try:
            files.read(number, path, offset, size)
        except OSError:
            pass  # not in memory any more, or the mount has ended: the job reads it itself


if __name__ == "__main__":
    sys.exit(main())
