"""The one table from errors to errno; a test proves that it is total."""

from __future__ import annotations

import errno

from lazysif import errors

ERRNO: dict[type[errors.LazysifError], int] = {
    errors.NoSuchEntry: errno.ENOENT,
    errors.StaleInode: errno.ESTALE,
    errors.AccessDenied: errno.EACCES,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.SourceTimeout: errno.ETIMEDOUT,
    errors.SourceUnavailable: errno.EIO,
    errors.SourceProtocolError: errno.EIO,
    errors.ImageChanged: errno.ESTALE,
    errors.LazysifError: errno.EIO,
}


def errno_of(error: errors.LazysifError) -> int:
    """The errno of the nearest class in the table."""
    return next(ERRNO[kind] for kind in type(error).__mro__ if kind in ERRNO)
