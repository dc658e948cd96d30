"""Files of the block store: written and read whole, with as few system calls as there can be. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lazysif.cache.frame import LARGEST_FRAME, DamagedFrame

_REMOVED_AT_ONCE = 2000
"""Files of a directory set aside that one chore removes: about 40 ms."""


def write_file(path: str, content: bytes) -> None:
    """Write a new file of ours with as few system calls as there can be; a partial one is removed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """The whole file in one read of its known size. Raises: DamagedFrame for one too long, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size > LARGEST_FRAME:
            raise DamagedFrame("its file is longer than any frame")
        return os.read(fd, size)
    finally:
        os.close(fd)


def remove_slowly(root: Path) -> Iterator[None]:
    """Remove a tree, `_REMOVED_AT_ONCE` files at a time; what resists is left for the next start."""
    removed = 0
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            try:
                os.unlink(os.path.join(folder, name))
            except OSError:
                pass
            removed += 1
            if removed % _REMOVED_AT_ONCE == 0:
                yield
        try:
            os.rmdir(folder)
        except OSError:
            pass
    yield
