"""The kernel's end of one mount, as the keeper holds it. Standard library only (see `lazysif.keeper`)."""

from __future__ import annotations

import array
import ctypes
import os
import select
import socket
import struct
import subprocess
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_FORCE, MNT_DETACH = 1, 2
RESEND = struct.pack("<IiQ", 16, 7, 0)
"""A notification without a body: length, code FUSE_NOTIFY_RESEND, unique 0 (include/uapi/linux/fuse.h, 7.40)."""
INIT_BYTES = 1 << 20


class MountFailed(Exception):
    pass


class KernelMount:
    """An open /dev/fuse, and the INIT request that its conversation began with.

    Args: order: what `lazysif mount` asked for.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.fuse_fd = -1
        self.init = b""

    def open(self) -> None:
        """Mount, and read INIT. Raises: MountFailed, OSError."""
        self.fuse_fd = self.mount_as_root() if os.geteuid() == 0 else self.mount_by_fusermount()
        if not select.select([self.fuse_fd], [], [], 10.0)[0]:
            raise MountFailed("the kernel does not open the conversation")
        self.init = os.read(self.fuse_fd, INIT_BYTES)

    def mount_as_root(self) -> int:
        """mount(2). Raises: OSError, MountFailed."""
        order = self.order
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = ",".join([f"fd={fd}", "rootmode=40000", "user_id=0", "group_id=0", *order["kernel_options"]])
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = (order["source"].encode(), order["mountpoint"].encode(), b"fuse.lazysif")
        if libc.mount(*arguments, MS_RDONLY | MS_NOSUID | MS_NODEV, data.encode()):
            number = ctypes.get_errno()
            os.close(fd)
            raise MountFailed(f"cannot mount at {order['mountpoint']}: {os.strerror(number)}")
        return fd

    def mount_by_fusermount(self) -> int:
        """fusermount3 mounts for ordinary users and passes the descriptor over a socket (fusermount.c)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        source = self.order["source"].replace("\\", "\\\\").replace(",", "\\,")
        options = [
            "ro",
            "nosuid",
            "nodev",
            f"fsname={source}",
            "subtype=lazysif",
            *self.order["kernel_options"],
        ]
        with ours, theirs:
            done = subprocess.run(
                ["fusermount3", "-o", ",".join(options), "--", self.order["mountpoint"]],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise MountFailed(f"cannot mount at {self.order['mountpoint']}: {done.stderr.strip()}")
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fd = array.array("i", content[:4])[0]
                os.set_inheritable(fd, False)
                return fd
        raise MountFailed("fusermount3 passed no descriptor")

    def connected(self) -> bool:
        """Whether the kernel still holds the other end: after umount or abort it says POLLERR."""
        poll = select.poll()
        poll.register(self.fuse_fd, 0)
        return not any(events & select.POLLERR for _, events in poll.poll(0))

    def resend(self) -> None:
        """Have the kernel ask again what a daemon had in hand. Raises: OSError: it is older than 6.9, or gone."""
        os.write(self.fuse_fd, RESEND)

    def close(self) -> None:
        """Close our end, which fails whatever still waits, and take the dead mount away.

        By force: a daemon that cannot die holds the connection open.
        """
        still_there = self.connected()
        os.close(self.fuse_fd)
        if not still_there:
            return
        if os.geteuid() == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.umount2(self.order["mountpoint"].encode(), MNT_FORCE | MNT_DETACH)
        else:
            command = ["fusermount3", "-u", "-z", "--", self.order["mountpoint"]]
            subprocess.run(command, check=False, capture_output=True)
