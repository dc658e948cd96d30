"""Values of the store as diskcache has them written, read and removed: bytes in, bytes out, one file each.

Pickle is refused in both directions (CVE-2025-69872 has no fixed release): a row that claims to be a pickle or a
text is damage, and is never loaded. Values never lie in the database; its `size` column holds what they occupy on
disk.
"""

from __future__ import annotations

import os
import re
import sqlite3
from dataclasses import dataclass
from itertools import count

import diskcache
from diskcache.core import MODE_BINARY, UNKNOWN

from lazysif.cache.frame import DamagedFrame
from lazysif.cache.value_file import read_file, write_file
from lazysif.model import Buffer

PAGE = 4096
FOLDERS = 16
"""Directories of value files. ext4 spreads directories over the disk: the first 1,024 files of 128 KiB
took 30 to 130 µs each to create in 16 directories, and 430 to 520 µs in 256."""
VALUE_FILE = re.compile(r"[0-9a-f]/[0-9a-f]{32}\.val")
VALUE_MODE: int = MODE_BINARY
"""diskcache's mode of a value that is plain bytes in a file of its own."""


class UnreadableFrame(Exception):
    """A value file that cannot be read; not an OSError, which `diskcache.Cache.get` would take for a miss."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Written:
    """A value whose file is there already."""

    filename: str
    size_bytes: int

    @property
    def stored_bytes(self) -> int:
        """What it occupies on disk."""
        return stored_bytes(self.size_bytes)


def stored_bytes(size_bytes: int) -> int:
    """What a file of `size_bytes` occupies on disk."""
    return -(-size_bytes // PAGE) * PAGE


class FrameDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes in, bytes out, one file each; everything else is refused."""

    def __init__(self, directory: str, **settings: object) -> None:
        super().__init__(directory, **settings)
        self.written: list[str] = []
        """Files written since the list was last cleared: removed where their transaction fails."""
        self._prefix = os.urandom(8).hex()
        self._numbers = count()

    def put(self, key: object) -> tuple[object, bool]:
        if type(key) is not bytes:
            raise TypeError("keys of the block store are bytes")
        return sqlite3.Binary(key), True

    def get(self, key: object, raw: object) -> bytes:
        if type(key) is not bytes or not raw:
            raise DamagedFrame("a key that is not plain bytes")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str, None]:
        if type(key) is not bytes or read or type(value) is not bytes:
            raise TypeError("keys and values of the block store are bytes")
        written = self.write(key, value)
        return written.stored_bytes, VALUE_MODE, written.filename, None

    def write(self, key: bytes, *pieces: Buffer) -> Written:
        """Write a value's file, for a row that is to follow."""
        # The first byte of the key leads the name, so that a sweep can go through rows and files in step.
        filename = f"{key[0] >> 4:x}/{key[0]:02x}{self._prefix}{next(self._numbers):014x}.val"
        self.written.append(filename)
        return Written(filename, write_file(os.path.join(self._directory, filename), *pieces))

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        if mode != VALUE_MODE or type(filename) is not str or not VALUE_FILE.fullmatch(filename):
            raise DamagedFrame("a row that this store did not write")
        try:
            return read_file(os.path.join(self._directory, filename))
        except FileNotFoundError:
            raise DamagedFrame("its file is missing") from None
        except OSError as error:
            raise UnreadableFrame(error) from error

    def remove(self, file_path: object) -> None:
        if type(file_path) is str and VALUE_FILE.fullmatch(file_path):
            try:
                os.unlink(os.path.join(self._directory, file_path))
            except OSError:
                pass  # gone already, or a sick disk: a sweep comes by

    def has(self, filename: object) -> bool:
        """True where a value file of ours lies there."""
        return (
            type(filename) is str
            and VALUE_FILE.fullmatch(filename) is not None
            and os.path.exists(os.path.join(self._directory, filename))
        )

    def forget_written(self) -> None:
        """Remove the files of a transaction that failed."""
        for filename in self.written:
            self.remove(filename)
