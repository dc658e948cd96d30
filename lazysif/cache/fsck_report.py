"""What a check of a cache directory has seen: counts by kind, for people and for JSON. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can be found, in the order of the report."""

    DATABASES = "damaged_databases"
    FRAMES = "damaged_frames"
    UNREADABLE = "unreadable_frames"
    NO_FILE = "rows_without_file"
    FOREIGN = "foreign_rows"
    SIZES = "wrong_sizes"
    SUMS = "wrong_sums"
    ORPHANS = "orphan_files"
    TABLES = "damaged_tables"
    RECORDS = "damaged_records"
    STALE = "stale_records"


@dataclass(slots=True)
class Report:
    """What a check has seen so far; written by one thread and read by any.

    Args:
        directory: of the cache.
        dry_run: nothing is changed.
        online: done by the daemon that uses the directory.
        frames_total: frames there were when it began; 0 until that is known.
        frames, frame_bytes: checked so far, as they lie on disk.
        tables_total, tables, records: likewise for block tables.
        found: how often, by kind.
        running: whether it goes on.
        stopped: why it ended before it was through, else "".
        seconds: how long it took.
    """

    directory: str
    dry_run: bool = False
    online: bool = False
    frames_total: int = 0
    frames: int = 0
    frame_bytes: int = 0
    tables_total: int = 0
    tables: int = 0
    records: int = 0
    found: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    running: bool = True
    stopped: str = ""
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing was wrong. Records of frames that were evicted are no fault: every full cache has them."""
        return not any(count for kind, count in self.found.items() if kind is not Kind.STALE)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "found"}
        return {**fields, "clean": self.clean, "found": {str(k): n for k, n in self.found.items()}}

    def count(self, kind: Kind, number: int = 1) -> None:
        self.found[kind] += number
