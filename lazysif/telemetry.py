"""Counters of what the daemon did, by name; docs/metrics.md lists them and a test compares.

All are counted on the daemon's trio thread or under the GIL by single `+=` of the thread that owns the figure;
readers take a copy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
    retries: int = 0
    image_changes: int = 0
    errors: int = 0
    unexpected_errors: int = 0
    cache_write_errors: int = 0
    cache_read_errors: int = 0
    cache_dropped_writes: int = 0
    cache_set_aside: int = 0
    frames_quarantined: int = 0
    frames_evicted: int = 0
    table_records_refused: int = 0

    def snapshot(self) -> dict[str, int]:
        return asdict(self)
