"""What must outlive the daemon: which inode number stands for what, and which image a name last meant.

A row is on disk before the kernel hears of its number. Losing the file costs one probe for each name; numbers
derive from what they name (`core.identity`), so that they stay the same even then. SQLite, used from one thread
at a time; a damaged file is set aside and begun anew.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from lazysif.core.identity import inode_number
from lazysif.errors import LocalDirectoryError
from lazysif.model import Image, ImageId, InodeNumber, Location, Validator, ValidatorKind

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inodes (number INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, remote TEXT NOT NULL, path TEXT NOT NULL, origin TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, validator_kind TEXT NOT NULL, validator TEXT NOT NULL,
    ranges INTEGER NOT NULL, modified_s INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS directories (number INTEGER PRIMARY KEY, remote TEXT NOT NULL, path TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS names (
    remote TEXT NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (remote, path)
);
"""
_IMAGE_COLUMNS = "id, remote, path, origin, size_bytes, validator_kind, validator, ranges, modified_s"


class StateStore:
    """Inodes, images and names in `directory/state-v1.sqlite`.

    Raises:
        LocalDirectoryError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state-v1.sqlite"
        self._lock = threading.Lock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s): set aside, names are asked for anew", self._path, error)
            self._set_aside()
            try:
                self._db = self._open()
            except sqlite3.Error as again:
                raise LocalDirectoryError(f"cannot write state directory {directory}: {again}") from again

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # survives the daemon's death; a power cut takes the kernel's references with it
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            db.execute("SELECT count(*) FROM names").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            try:
                part.replace(part.with_name(part.name + ".damaged"))
            except FileNotFoundError:
                pass

    def remember_directory(self, remote: str, path: str) -> InodeNumber:
        """The inode number of a directory, on disk when this returns."""
        with self._lock, self._db:
            number = self._number(f"directory\0{remote}\0{path}")
            self._db.execute("INSERT OR IGNORE INTO directories VALUES (?, ?, ?)", (number, remote, path))
        return number

    def remember_image(self, image: Image) -> InodeNumber:
        """The inode number of this version under this name, and the name's present meaning, on disk."""
        with self._lock, self._db:
            number = self._number(f"image\0{image.remote}\0{image.path}\0{image.id}")
            self._db.execute(
                f"INSERT OR REPLACE INTO images (number, {_IMAGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    image.id,
                    image.remote,
                    image.path,
                    image.location.origin,
                    image.size_bytes,
                    image.validator.kind.value,
                    image.validator.value,
                    image.ranges,
                    image.modified_s,
                ),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (image.remote, image.path, number)
            )
        return number

    def forget_name(self, remote: str, path: str) -> None:
        """The name means nothing any more; inode numbers given out for it stay known."""
        with self._lock:
            self._db.execute("DELETE FROM names WHERE remote = ? AND path = ?", (remote, path))

    def _number(self, identity: str) -> InodeNumber:
        """The number given to `identity` before, or a new one that nothing else has."""
        attempt = 0
        while True:
            number = inode_number(identity, attempt)
            self._db.execute("INSERT OR IGNORE INTO inodes VALUES (?, ?)", (number, identity))
            row = self._db.execute("SELECT identity FROM inodes WHERE number = ?", (number,)).fetchone()
            if row is not None and row[0] == identity:
                return number
            attempt += 1

    def image_of(self, number: InodeNumber) -> Image | None:
        """The image that an inode number was given out for, by this daemon or one before it."""
        return self._image("WHERE number = ?", (number,))

    def image_named(self, remote: str, path: str) -> Image | None:
        """The image that a name meant when it was last resolved."""
        return self._image(
            "WHERE number = (SELECT number FROM names WHERE remote = ? AND path = ?)", (remote, path)
        )

    def directory_of(self, number: InodeNumber) -> tuple[str, str] | None:
        """Remote and path of a directory's inode number."""
        with self._lock:
            row = self._db.execute(
                "SELECT remote, path FROM directories WHERE number = ?", (number,)
            ).fetchone()
        return (row[0], row[1]) if row is not None else None

    def _image(self, where: str, arguments: tuple[object, ...]) -> Image | None:
        with self._lock:
            row = self._db.execute(f"SELECT {_IMAGE_COLUMNS} FROM images {where}", arguments).fetchone()
        if row is None:
            return None
        image_id, remote, path, origin, size_bytes, kind, value, ranges, modified_s = row
        try:
            validator = Validator(ValidatorKind(kind), value)
        except ValueError:
            return None  # written by a later version
        return Image(
            id=ImageId(image_id),
            remote=remote,
            path=path,
            location=Location(url=origin, origin=origin),
            size_bytes=size_bytes,
            validator=validator,
            ranges=bool(ranges),
            modified_s=modified_s,
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()
