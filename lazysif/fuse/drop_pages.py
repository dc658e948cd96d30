"""Makes the kernel forget all pages of files, and waits until it has.

    drop_pages.py FUSE_FD INODE…

A page that is being read is locked until the read is answered; who drops it waits for that where no signal reaches.
Were it a thread of the daemon that has to answer, the daemon could not be killed and replaced; so it is this process.
Standard library only.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

NOTIFICATION = struct.Struct("<IiQQqq")
INVALIDATE_INODE = 2
"""fuse_out_header (length, code, unique 0) and fuse_notify_inval_inode_out (inode, offset, length; from 0 on, and a
length of 0 means to the end): include/uapi/linux/fuse.h, since 7.12."""


def main() -> int:
    fuse_fd, *numbers = map(int, sys.argv[1:])
    for number in numbers:
        try:
            os.write(fuse_fd, NOTIFICATION.pack(NOTIFICATION.size, INVALIDATE_INODE, 0, number, 0, 0))
        except OSError as error:
            if error.errno not in (
                errno.ENOENT,
                errno.ENODEV,
            ):  # it does not know the file, or the mount is gone
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
