"""What must outlive the daemon: which inode number stands for what, what a name last meant, and when that was said.

A row is on disk before the kernel hears of its number. Losing the file costs one probe for each name; numbers
derive from what they name (`core.identity`), so that they stay the same even then. SQLite, used from one thread
at a time; a damaged file is set aside and begun anew. A disk that refuses later costs what was to be remembered, not
the look-up.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazysif.core.confirmation import Confirmation, Moment
from lazysif.core.identity import inode_number
from lazysif.errors import LocalDirectoryError
from lazysif.model import Image, ImageId, InodeNumber, Location, Validator, ValidatorKind

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inodes (number INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, remote TEXT NOT NULL, path TEXT NOT NULL, origin TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, validator_kind TEXT NOT NULL, validator TEXT NOT NULL,
    ranges INTEGER NOT NULL, modified_s INTEGER NOT NULL,
    guard_kind TEXT NOT NULL DEFAULT '', guard TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS verdicts (image_id TEXT PRIMARY KEY, verdict TEXT NOT NULL, at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS directories (number INTEGER PRIMARY KEY, remote TEXT NOT NULL, path TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS names (
    remote TEXT NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (remote, path)
);
CREATE TABLE IF NOT EXISTS confirmed (
    remote TEXT NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL, wall_s REAL NOT NULL, boot_s REAL NOT NULL,
    boot TEXT NOT NULL, asked_of TEXT NOT NULL, PRIMARY KEY (remote, path)
);
"""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""Not our file (any more), or not our schema; a full or sick disk is no reason to give up what is in it."""
_IMAGE_COLUMNS = (
    "id, remote, path, origin, size_bytes, validator_kind, validator, ranges, modified_s, guard_kind, guard"
)
_ADDED_COLUMNS = ("guard_kind", "guard")
"""Since the first release of state-v1. Tables come by themselves, and an older release does not look at them: so
`confirmed` is one, and not columns of `names`, whose rows that one writes by position."""


Said = tuple[Moment, str]
"""When an origin said something of a name, and what the configuration said of where names lead (`asked_of`)."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a name last meant: an image, or a directory where `image` is None.

    Args:
        confirmed: when the origin said so; None where that is not known, or was doubted since.
    """

    number: InodeNumber
    image: Image | None
    confirmed: Confirmation | None


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
            if error.sqlite_errorcode & 0xFF not in _DAMAGE:
                raise LocalDirectoryError(f"cannot use state directory {directory}: {error}") from error
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
            _add_columns(db)
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

    def remember_directory(self, remote: str, path: str, said: Said | None = None) -> InodeNumber:
        """The inode number of a directory, on disk when this returns; `said`: its origin says that it is one."""
        identity = f"directory\0{remote}\0{path}"
        try:
            with self._lock, self._db:
                number = self._number(identity)
                self._db.execute("INSERT OR IGNORE INTO directories VALUES (?, ?, ?)", (number, remote, path))
                if said is not None:
                    self._confirm(remote, path, number, said)
        except sqlite3.Error as error:
            return self._not_remembered(identity, error)
        return number

    def remember_image(self, image: Image, said: Said | None = None) -> InodeNumber:
        """The inode number of this version under this name, and the name's present meaning, on disk.

        Args: said: by the name's origin, just now; None: it could not be asked, so that nobody is to believe it.
        """
        identity = f"image\0{image.remote}\0{image.path}\0{image.id}"
        try:
            with self._lock, self._db:
                number = self._number(identity)
                self._write_image(number, image)
                self._confirm(image.remote, image.path, number, said)
        except sqlite3.Error as error:
            return self._not_remembered(identity, error)
        return number

    def _write_image(self, number: InodeNumber, image: Image) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO images (number, {_IMAGE_COLUMNS}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                image.guard.kind.value if image.guard else "",
                image.guard.value if image.guard else "",
            ),
        )
        self._db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (image.remote, image.path, number))

    def _confirm(self, remote: str, path: str, number: InodeNumber, said: Said | None) -> None:
        if said is None:
            self._db.execute("DELETE FROM confirmed WHERE remote = ? AND path = ?", (remote, path))
            return
        at, asked_of = said
        self._db.execute(
            "INSERT OR REPLACE INTO confirmed (remote, path, number, wall_s, boot_s, boot, asked_of) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (remote, path, number, at.wall_s, at.boot_s, at.boot, asked_of),
        )

    def doubt(self, remote: str, path: str) -> None:
        """The next daemon shall ask what the name means, however lately its origin was asked."""
        try:
            with self._lock:
                self._confirm(remote, path, InodeNumber(0), None)
        except sqlite3.Error as error:
            log.warning("%s: %s: a restart will not doubt %s", self._path, error, path)

    def _not_remembered(self, identity: str, error: sqlite3.Error) -> InodeNumber:
        """The number that it has all the same: the next daemon will not know it, unless it is asked for again."""
        log.warning("%s: %s: a restart will not know all inodes", self._path, error)
        return inode_number(identity)

    def forget_name(self, remote: str, path: str) -> None:
        """The name means nothing any more; inode numbers given out for it stay known."""
        try:
            with self._lock:
                self._db.execute("DELETE FROM names WHERE remote = ? AND path = ?", (remote, path))
                self._confirm(remote, path, InodeNumber(0), None)
        except sqlite3.Error as error:
            log.warning("%s: %s: %s is not forgotten", self._path, error, path)

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

    def remembered(self, remote: str, path: str) -> Remembered | None:
        """What a name meant when it was last resolved."""
        row = self._row(
            "SELECT names.number, confirmed.number, wall_s, boot_s, boot, asked_of "
            "FROM (SELECT ? AS remote, ? AS path) LEFT JOIN names USING (remote, path) "
            "LEFT JOIN confirmed USING (remote, path)",
            (remote, path),
        )
        if row is None or row[:2] == (None, None):
            return None
        named, number, *said = row
        confirmed = _confirmation(number, *said) if number is not None else None
        if confirmed is not None and self.directory_of(confirmed.number) == (remote, path):
            return Remembered(confirmed.number, None, confirmed)
        image = self.image_of(named) if named is not None else None
        if image is None or (image.remote, image.path) != (remote, path):
            return None
        # an older release writes what names mean, and not when that was said
        same = confirmed is not None and confirmed.number == named
        return Remembered(named, image, confirmed if same else None)

    def verdict_of(self, image_id: ImageId) -> tuple[str, float] | None:
        """What a check of the whole image found, and when (seconds since 1970)."""
        row = self._row("SELECT verdict, at_s FROM verdicts WHERE image_id = ?", (image_id,))
        return (row[0], row[1]) if row is not None else None

    def remember_verdict(self, image_id: ImageId, verdict: str, at_s: float) -> None:
        """Keep a verdict in place of an earlier one."""
        try:
            with self._lock:
                self._db.execute(
                    "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (image_id, verdict, at_s)
                )
        except sqlite3.Error as error:
            log.warning("%s: %s: a verdict is not remembered", self._path, error)

    def directory_of(self, number: InodeNumber) -> tuple[str, str] | None:
        """Remote and path of a directory's inode number."""
        row = self._row("SELECT remote, path FROM directories WHERE number = ?", (number,))
        return (row[0], row[1]) if row is not None else None

    def _row(self, statement: str, arguments: tuple[object, ...]) -> tuple[Any, ...] | None:
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._db.execute(statement, arguments).fetchone()
        except sqlite3.Error as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return None
        return row

    def _image(self, where: str, arguments: tuple[object, ...]) -> Image | None:
        row = self._row(f"SELECT {_IMAGE_COLUMNS} FROM images {where}", arguments)
        if row is None:
            return None
        image_id, remote, path, origin, size_bytes, kind, value, ranges, modified_s, guard_kind, guard = row
        try:
            validator = Validator(ValidatorKind(kind), value)
            guarded = Validator(ValidatorKind(guard_kind), guard) if guard_kind else None
        except ValueError:
            return None  # written by a later version
        return Image(
            id=ImageId(image_id),
            remote=remote,
            path=path,
            # its URL may be signed, and is asked for when it is needed
            location=Location(url="", origin=origin),
            size_bytes=size_bytes,
            validator=validator,
            ranges=bool(ranges),
            modified_s=modified_s,
            guard=guarded,
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _confirmation(
    number: object, wall_s: object, boot_s: object, boot: object, asked_of: object
) -> Confirmation | None:
    """Of a row's values, which SQLite lets be of any type; None for what nobody wrote on purpose."""
    if (
        isinstance(number, int)
        and isinstance(wall_s, float)
        and isinstance(boot_s, float)
        and isinstance(boot, str)
        and isinstance(asked_of, str)
    ):
        return Confirmation(InodeNumber(number), Moment(wall_s, boot_s, boot), asked_of)
    return None


def _add_columns(db: sqlite3.Connection) -> None:
    """Bring a table that an earlier release made up to date."""
    present = {row[1] for row in db.execute("PRAGMA table_info(images)")}
    for column in _ADDED_COLUMNS:
        if column not in present:
            db.execute(f"ALTER TABLE images ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
