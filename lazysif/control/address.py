"""Where daemons listen: one Unix socket for each mountpoint in the runtime directory."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from lazysif.errors import LocalDirectoryError, MountError
from lazysif.whole_file import write_whole

_LONGEST_BYTES = 85
"""Of the runtime directory: the kernel takes 107 for the path of a socket (unix(7)), and `socket_path` adds 22."""


def runtime_directory() -> Path:
    """/run/lazysif for root, else $XDG_RUNTIME_DIR/lazysif or /tmp/lazysif-UID; LAZYSIF_RUNTIME_DIR overrides."""
    given = os.environ.get("LAZYSIF_RUNTIME_DIR", "")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/lazysif")
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(user) / "lazysif" if user else Path(f"/tmp/lazysif-{os.geteuid()}")


def make_runtime_directory() -> Path:
    """Create it with mode 0700.

    Raises:
        LocalDirectoryError: somebody else has it (/tmp is everybody's), or its path leaves no room for a socket's.
    """
    directory = runtime_directory()
    if len(os.fsencode(directory)) > _LONGEST_BYTES:
        raise LocalDirectoryError(
            f"path of runtime directory {directory} is longer than {_LONGEST_BYTES} bytes",
            hint="LAZYSIF_RUNTIME_DIR names another one",
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise LocalDirectoryError(f"cannot make runtime directory {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LocalDirectoryError(f"runtime directory {directory} belongs to somebody else")
    return directory


def socket_path(mountpoint: str) -> Path:
    """The socket of the daemon that serves `mountpoint` (absolute, as `absolute_mountpoint` gives it)."""
    return runtime_directory() / f"{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]}.sock"


def upgrade_file(mountpoint: str) -> Path:
    """Where `lazysif upgrade` names the program that takes over."""
    return socket_path(mountpoint).with_suffix(".upgrade")


def mounted_file(mountpoint: str) -> Path:
    """What `lazysif mount` was asked, for `lazysif reload`."""
    return socket_path(mountpoint).with_suffix(".mounted")


def write_runtime_file(file: Path, content: bytes) -> None:
    """Put a file of the runtime directory in its place (`write_whole`); only its owner can read it.

    Raises: LocalDirectoryError: it cannot be written, and is as it was before.
    """
    try:
        write_whole(file, content)
    except OSError as error:
        raise LocalDirectoryError(
            f"{file} cannot be written: {error.strerror}", hint="LAZYSIF_RUNTIME_DIR names another directory"
        ) from error


def absolute_mountpoint(given: str) -> str:
    """The path without links, without asking the mount itself: only its parent is looked at.

    Raises: MountError: it is empty, as where a script's variable is not set, and would be the working directory.
    """
    if not given:
        raise MountError("the name of the mountpoint is empty", hint="name a directory")
    parent, name = os.path.split(os.path.abspath(given))
    return os.path.join(os.path.realpath(parent), name)


def sockets() -> list[Path]:
    """The sockets of all daemons of this user, dead ones included."""
    return sorted(runtime_directory().glob("*.sock"))
