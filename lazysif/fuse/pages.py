"""The kernel's page cache of a mount: given what a job will read, and made to drop what must not be read.

Both are done by a process of its own (`pages_process`), in the order in which they were asked for, so that nothing
comes back that was dropped. What is given is charged to the daemon's memory cgroup, not to the job's; it is clean,
and goes first when memory is short.

Giving is for who asks for it (`give_pages`). It waits for pages that are being read, a millisecond now and then, and
holds the connection meanwhile. If all processes of a mount are killed in such a moment nobody is left to answer, and
the kernel does not end the connection: what reads there hangs until `umount -f`. Stopped 400 times a second, two of
about fifty starts were stopped in such a moment.
"""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from lazysif.fuse import pages_process
from lazysif.model import Buffer, InodeNumber

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IiQ")
_INVALIDATE_INODE, _STORE = 2, 4
_INVALIDATED = struct.Struct("<Qqq")
_STORED = struct.Struct("<QQII")
"""fuse_out_header (length, code, unique 0), fuse_notify_inval_inode_out (inode, offset, length) and
fuse_notify_store_out (inode, offset, size, padding): include/uapi/linux/fuse.h, since 7.12 and 7.15."""

_PIECE_BYTES = 64 << 10
"""Of a block in one message: a socket takes 208 KiB, in an unprivileged process too."""
_MOST_WAITING = 64
"""Blocks; more are passed over."""
_LAST_S = 0.5


class Pages:
    """Args:
    fuse_fd: /dev/fuse of the mount, open for as long as this is used. `close` it.
    """

    def __init__(self, fuse_fd: int) -> None:
        self._fuse_fd = fuse_fd
        self.process: subprocess.Popen[bytes] | None = None
        self._queue: SimpleQueue[tuple[InodeNumber, int, Buffer] | tuple[InodeNumber, Event] | None] = (
            SimpleQueue()
        )
        self._thread = Thread(target=self._work, name="lazysif-pages", daemon=True)
        self._thread.start()

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
        """Take nothing more, and wait a second at most for the process to end."""
        self._queue.put(None)
        self._thread.join(_LAST_S)
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LAST_S)

    def _work(self) -> None:
        channel = None
        while (item := self._queue.get()) is not None:
            try:
                channel = channel or self._begin()
                if len(item) == 3:
                    _store(channel, *item)
                else:
                    _invalidate(channel, item[0])
            except OSError as error:  # the process is gone: nothing is lost but speed
                log.debug("no pages of inode %d: %s", item[0], error)
            if len(item) == 2:
                item[1].set()
            del item  # or the last block would stay in memory
        if channel is not None:
            channel.close()

    def _begin(self) -> socket.socket:
        """Start the process at the first thing to do: most mounts never need it. Raises: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            numbers = (self._fuse_fd, theirs.fileno())
            # not -m, and without site: it is there in 15 ms, and needs 9 MB
            program = [sys.executable, "-I", "-S", str(Path(pages_process.__file__).resolve())]
            self.process = subprocess.Popen(
                [*program, *map(str, numbers)], pass_fds=numbers, stdin=subprocess.DEVNULL
            )
        return ours


def _store(channel: socket.socket, number: InodeNumber, offset: int, data: Buffer) -> None:
    view = memoryview(data)
    for start in range(0, len(view), _PIECE_BYTES):
        piece = view[start : start + _PIECE_BYTES]
        stored = _STORED.pack(number, offset + start, len(piece), 0)
        header = _HEADER.pack(_HEADER.size + len(stored) + len(piece), _STORE, 0)
        channel.sendmsg((header, stored, piece))


def _invalidate(channel: socket.socket, number: InodeNumber) -> None:
    """All of it: from 0 on, and a length of 0 means to the end."""
    header = _HEADER.pack(_HEADER.size + _INVALIDATED.size, _INVALIDATE_INODE, 0)
    channel.sendmsg((header, _INVALIDATED.pack(number, 0, 0)))
    channel.recv(1)
