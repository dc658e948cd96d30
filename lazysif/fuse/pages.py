"""The kernel's page cache of a mount: given what a job will read, and made to drop what must not be read.

Both wait in the kernel for pages that are being read, so they have a thread of their own; in the order in which they
were asked for, so that nothing comes back that was dropped. Not by way of pyfuse3: a call that waits there while the
session ends comes back to memory that is gone.

What is given is charged to the daemon's memory cgroup, not to the job's; it is clean, and goes first when memory is
short.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from queue import SimpleQueue
from threading import Event, Thread

from lazysif.model import Buffer, InodeNumber

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IiQ")
_INVALIDATE_INODE, _STORE = 2, 4
_INVALIDATED = struct.Struct("<Qqq")
_STORED = struct.Struct("<QQII")
"""fuse_out_header (length, code, unique 0), fuse_notify_inval_inode_out (inode, offset, length) and
fuse_notify_store_out (inode, offset, size, padding): include/uapi/linux/fuse.h, since 7.12 and 7.15."""

_MOST_WAITING = 64
"""Blocks; more are passed over. The kernel takes one in 0.04 ms, unless it waits for a page."""


class Pages:
    """Args: fuse_fd: /dev/fuse of the mount; a duplicate of it is used, and closed with `close`."""

    def __init__(self, fuse_fd: int) -> None:
        self._fd = os.dup(fuse_fd)
        self._queue: SimpleQueue[tuple[InodeNumber, int, Buffer] | tuple[InodeNumber, Event] | None] = (
            SimpleQueue()
        )
        Thread(target=self._work, name="lazysif-pages", daemon=True).start()

    def give(self, number: InodeNumber, offset: int, data: Buffer) -> None:
        """Let the kernel have these bytes of a file, soon; does not wait."""
        if self._queue.qsize() < _MOST_WAITING:
            self._queue.put((number, offset, data))

    def drop(self, number: InodeNumber) -> None:
        """Have the kernel forget all bytes of a file, and wait for it; not to be called on the trio thread."""
        done = Event()
        self._queue.put((number, done))
        done.wait()

    def close(self) -> None:
        """End the thread behind what is queued; does not wait."""
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if len(item) == 3:
                    self._store(*item)
                else:
                    self._invalidate(item[0])
            except OSError as error:
                if error.errno not in (
                    errno.ENOENT,
                    errno.ENODEV,
                ):  # it does not know the file; it is unmounted
                    log.warning(
                        "the kernel's pages of inode %d stay as they are: %s", item[0], error.strerror
                    )
            if len(item) == 2:
                item[1].set()
            del item  # or the last block would stay in memory
        os.close(self._fd)

    def _store(self, number: InodeNumber, offset: int, data: Buffer) -> None:
        stored = _STORED.pack(number, offset, len(data), 0)
        header = _HEADER.pack(_HEADER.size + len(stored) + len(data), _STORE, 0)
        os.writev(self._fd, (header, stored, data))

    def _invalidate(self, number: InodeNumber) -> None:
        """All of it: from 0 on, and a length of 0 means to the end."""
        header = _HEADER.pack(_HEADER.size + _INVALIDATED.size, _INVALIDATE_INODE, 0)
        os.writev(self._fd, (header, _INVALIDATED.pack(number, 0, 0)))
