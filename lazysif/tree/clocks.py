"""The clocks that a daemon shares with the one before it and the one after it."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from lazysif.core.confirmation import Moment

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def present() -> Moment:
    """Now, by the wall clock and since the boot."""
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot())


@cache
def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
