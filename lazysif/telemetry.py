"""Counters of what the daemon did, by name; docs/metrics.md lists them and a test compares.

All are counted on the daemon's trio thread or under the GIL by single `+=` of the thread that owns the figure;
readers take a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from itertools import count


@dataclass(slots=True)
class Counters:
    """Totals since the daemon started. Bytes are plain bytes of images, not what the cache stores."""

    read_requests: int = 0
    served_bytes: int = 0
    fetched_bytes: int = 0
    fetch_requests: int = 0
    probe_requests: int = 0
    revalidations: int = 0
    listing_requests: int = 0
    hits: int = 0
    memory_hits: int = 0
    misses: int = 0
    joins: int = 0
    readahead_blocks: int = 0
    prefetch_blocks: int = 0
    prefetch_late: int = 0
    given_blocks: int = 0
    traces_recorded: int = 0
    traces_learned: int = 0
    traces_offered: int = 0
    traces_refused: int = 0
    trace_errors: int = 0
    retries: int = 0
    hedged_requests: int = 0
    hedges_won: int = 0
    renewals: int = 0
    failovers: int = 0
    mirror_disagreements: int = 0
    image_changes: int = 0
    reads_late: int = 0
    reads_refused: int = 0
    errors: int = 0
    unexpected_errors: int = 0
    cache_write_errors: int = 0
    cache_read_errors: int = 0
    cache_dropped_writes: int = 0
    cache_set_aside: int = 0
    frames_quarantined: int = 0
    frames_evicted: int = 0
    table_records_refused: int = 0
    images_verified: int = 0
    images_refused: int = 0

    def snapshot(self) -> dict[str, int]:
        return asdict(self)


class InHand:
    """The kernel's requests that were not answered at once: what they are and since when.

    Written on the trio thread, read from any. Times are of whatever clock the caller uses throughout.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._requests: dict[int, tuple[str, float, Hashable]] = {}

    def enter(self, kind: str, since_s: float, what: Hashable = None) -> int:
        """Note a request that waits since then, and `what` it asks for; give what this returns to `leave`."""
        number = next(self._numbers)
        self._requests[number] = (kind, since_s, what)
        return number

    def leave(self, number: int) -> None:
        del self._requests[number]

    def by_kind(self) -> dict[str, int]:
        return dict(Counter(kind for kind, _, _ in self._copy()))

    def oldest_s(self, now: float) -> float:
        """Age of the oldest, 0.0 where nothing is in hand."""
        return max((now - since_s for _, since_s, _ in self._copy()), default=0.0)

    def listed(self) -> list[tuple[Hashable, float]]:
        """What each asks for, and since when."""
        return [((kind, what), since_s) for kind, since_s, what in self._copy()]

    def _copy(self) -> list[tuple[str, float, Hashable]]:
        return list(self._requests.copy().values())
