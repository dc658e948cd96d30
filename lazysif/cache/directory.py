"""The cache directory (and the state directory): ours, private, and used by one daemon only.

Refusing is for people who start a daemon with a directory that must not be used. A disk that is sick at
that moment is not refused but reported as OSError: the daemon then serves uncached and tries again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from lazysif.errors import LocalDirectoryError

SICK_DISK = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
    )
)


def prepare_directory(path: Path, what: str = "cache") -> None:
    """Make `path` with mode 0700 if it is missing, and check that nobody else can put anything there.

    Raises:
        LocalDirectoryError: a symbolic link, not a directory, owned by another user, writable by others, or
            impossible to make.
        OSError: the disk is sick (`SICK_DISK`).
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        if error.errno in SICK_DISK:
            raise
        raise LocalDirectoryError(
            f"{what} directory {path} cannot be made: {error.strerror}",
            hint=f"choose another one with --{what}-dir",
        ) from error
    _check(path, status, what)


def _check(path: Path, status: os.stat_result, what: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a directory"
        raise LocalDirectoryError(f"{what} directory {path} is {kind}", hint="name the directory itself")
    if status.st_uid != os.geteuid():
        raise LocalDirectoryError(
            f"{what} directory {path} belongs to user {status.st_uid}, not to user {os.geteuid()}",
            hint=f"choose one that this user owns with --{what}-dir",
        )
    if status.st_mode & 0o022:
        raise LocalDirectoryError(
            f"{what} directory {path} can be written by other users", hint=f"run chmod go-w {path}"
        )


class DirectoryLock:
    """An flock'd file in the cache or state directory; the kernel drops it however the process ends."""

    def __init__(self, directory: Path, what: str = "cache") -> None:
        self._directory = directory
        self._what = what
        self._path = directory / "lock"
        self._fd = -1

    @property
    def held(self) -> bool:
        """True while we hold the lock of the file that is there now: somebody may have deleted it."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def acquire(self) -> None:
        """Take the lock, or do nothing where it is held already.

        Raises:
            LocalDirectoryError: another process has it, or the file cannot be opened.
            OSError: the disk is sick (`SICK_DISK`).
        """
        if self.held:
            return
        self.release()
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise LocalDirectoryError(
                f"{self._what} directory {self._directory} is in use by process {owner}",
                hint=f"give this mount its own --{self._what}-dir, or serve both by one daemon with --config",
            ) from None
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its owner's number is missing

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in SICK_DISK:
                raise
            raise LocalDirectoryError(f"cannot open {self._path}: {error.strerror}") from error
