"""The clock of least recent use, which is diskcache's `expire_time`: last use + `HORIZON_S`, and for pinned frames
+ `PINNED_S` more.

So eviction is diskcache's own `expire()` up to a threshold, ordinary frames go before pinned ones, and `get` writes
nothing.
"""

from __future__ import annotations

from math import inf, nextafter

from lazysif.cache.rows import Sql

HORIZON_S = 100 * 365.25 * 86400
PINNED_S = HORIZON_S


def lifetime_s(pinned: bool) -> float:
    """From a use of a frame to its `expire_time`."""
    return HORIZON_S + PINNED_S if pinned else HORIZON_S


def is_pinned(remaining_s: float) -> bool:
    """Whether a frame that expires in `remaining_s` is a pinned one."""
    return remaining_s > HORIZON_S + PINNED_S / 2


def eviction_threshold(sql: Sql, free_bytes: int, most: int) -> float:
    """The `expire_time` below which frames of at least `free_bytes` lie, or `most` frames, or all of them."""
    total = 0
    last = 0.0
    rows = sql(
        "SELECT expire_time, size FROM Cache WHERE expire_time > 0 ORDER BY expire_time LIMIT ?", (most,)
    )
    for expires, size in rows:
        last = expires
        total += size
        if total >= free_bytes:
            break
    rows.close()
    return nextafter(last, inf)
