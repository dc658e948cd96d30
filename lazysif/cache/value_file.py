"""Files of the block store: written and read whole, with as few system calls as there can be. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lazysif.cache.frame import LARGEST_FRAME, DamagedFrame
from lazysif.model import Buffer

_REMOVED_AT_ONCE = 2000
"""Files of a directory set aside that one chore removes: about 40 ms."""


def write_file(path: str, *pieces: Buffer) -> int:
    """Write a new file of ours with as few system calls as there can be; a partial one is removed.

    Returns its size.
    """
    size_bytes = sum(map(len, pieces))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        written = os.writev(fd, pieces)
        if written < size_bytes:
            _write_rest(fd, pieces, written)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return size_bytes


def _write_rest(fd: int, pieces: Sequence[Buffer], written: int) -> None:
    """What is left behind the first `written` bytes: a disk that fills takes a part, and then says so."""
    rest = memoryview(b"".join(pieces))[written:]
    while rest:
        rest = rest[os.write(fd, rest) :]


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
