"""Hands notifications on to the kernel, which may keep who does so waiting where no signal reaches.

A page that a job is reading is locked until the read is answered. Whoever gives or drops that page waits for it, and
cannot be killed meanwhile. Were it a thread of the daemon that has to answer, the daemon could not be killed and
replaced either, or stopped and traced; so it is this process, which the daemon does not wait for.

    pages_process.py FUSE_FD SOCKET_FD

Each message on the socket, which keeps their bounds, is one notification as it goes to the kernel; one that drops
pages is answered with a byte when it is done. Ends with the daemon, or with the mount. Standard library only.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys

MESSAGE_BYTES = 80 << 10
DROP_BYTES = 40


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, and its end is ours
    fuse_fd, channel = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    buffer = memoryview(bytearray(MESSAGE_BYTES))
    while size := channel.recv_into(buffer):
        try:
            os.write(fuse_fd, buffer[:size])
        except OSError as error:
            if error.errno == errno.ENODEV:
                break
            if error.errno != errno.ENOENT:  # it does not know the file, or not any more
                print(f"lazysif: the kernel takes no pages: {error.strerror}", file=sys.stderr)
        if size == DROP_BYTES:
            channel.send(b".")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError:
        pass  # the daemon is gone
