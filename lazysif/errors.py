"""What can go wrong, as one tree; the table to errno is in `fuse.errno_table`.

    LazysifError
    ├── ConfigError              a person wrote something that cannot be meant; never reaches the kernel
    ├── MountError               the mountpoint, /dev/fuse or the kernel refuses; never reaches the kernel
    ├── LocalDirectoryError      the cache or state directory cannot be used; never reaches the kernel
    ├── NoSuchEntry              no image or directory of that name                      ENOENT
    ├── StaleInode               an inode number that this mount never gave out          ESTALE
    ├── AccessDenied             the origin answered 401 or 403                          EACCES
    ├── DeadlineExceeded         nothing came in time                                    ETIMEDOUT
    └── SourceError
        ├── SourceUnavailable    temporary: connection, 5xx, 429, short body             EIO
        │   └── SourceTimeout    the origin said nothing, or too slowly                  ETIMEDOUT
        ├── SourceProtocolError  the answer cannot be believed                           EIO
        └── ImageChanged         the version that was opened is gone at the origin       ESTALE

An error carries facts: what was asked, of which image, from which origin, why, and what may help. `str(error)`
is the one line that people see, and never holds a secret: URLs in it have no userinfo and no query.
"""

from __future__ import annotations


class LazysifError(Exception):
    """Base of all errors that lazysif raises on purpose.

    Args:
        why: what happened, in a sentence without a full stop.
        image: the image name as users type it, if one is concerned.
        origin: the URL without userinfo and query, if an origin is concerned.
        hint: what the reader can do about it.
    """

    temporary = False

    def __init__(self, why: str, *, image: str = "", origin: str = "", hint: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.image = image
        self.origin = origin
        self.hint = hint

    def __str__(self) -> str:
        line = f"{self.image}: {self.why}" if self.image else self.why
        if self.origin:
            line += f" (origin {self.origin})"
        if self.hint:
            line += f"; {self.hint}"
        return line

    def about(self, *, image: str = "", origin: str = "") -> None:
        """Fill in the image and the origin where they are not known yet."""
        self.image = self.image or image
        self.origin = self.origin or origin


class ConfigError(LazysifError):
    """A configuration file, option or name that cannot be meant."""


class MountError(LazysifError):
    """The mountpoint or the kernel refuses the mount."""


class LocalDirectoryError(LazysifError):
    """The cache or state directory cannot be used: owner, lock, permissions, file system."""


class NoSuchEntry(LazysifError):
    """The origin has no image or directory of that name, or the name cannot exist.

    Args:
        certain: nothing can lie below it, either: the registry knows by the name's form that it would be an
            image. Else a name that does not look like an image may be a directory.
    """

    def __init__(
        self, why: str, *, image: str = "", origin: str = "", hint: str = "", certain: bool = False
    ) -> None:
        super().__init__(why, image=image, origin=origin, hint=hint)
        self.certain = certain


class StaleInode(LazysifError):
    """An inode number that the state directory does not know."""


class AccessDenied(LazysifError):
    """The origin refuses these credentials (401) or this reader (403).

    Args:
        asks_credentials: a 401; a 403 may also stand for "no such file" (S3 without the right to list).
    """

    def __init__(
        self, why: str, *, image: str = "", origin: str = "", hint: str = "", asks_credentials: bool = False
    ) -> None:
        super().__init__(why, image=image, origin=origin, hint=hint)
        self.asks_credentials = asks_credentials


class DeadlineExceeded(LazysifError):
    """A request of the kernel was not answered within its configured time."""

    temporary = True


class SourceError(LazysifError):
    """Something on the way to the bytes failed."""


class SourceUnavailable(SourceError):
    """The origin cannot be reached or asks to come again: worth another try.

    Args:
        retry_after_s: what the origin asked for, if it did.
    """

    temporary = True

    def __init__(
        self,
        why: str,
        *,
        image: str = "",
        origin: str = "",
        hint: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(why, image=image, origin=origin, hint=hint)
        self.retry_after_s = retry_after_s


class SourceTimeout(SourceUnavailable):
    """The origin stalls: no connection, no answer or no more bytes in time."""


class SourceProtocolError(SourceError):
    """The origin's answer does not fit the request, and is not read."""


class ImageChanged(SourceError):
    """The origin holds another version than the one that was opened, or none any more."""


class FormatError(LazysifError):
    """Bytes that claim to be a SIF or squashfs header and are not; parsers raise nothing else."""
