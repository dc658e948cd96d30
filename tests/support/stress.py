"""What the long tests share: their size, and what a process uses."""

from __future__ import annotations

import os
from pathlib import Path

FULL = os.environ.get("LAZYSIF_FULL", "") == "1"
"""Full size; read at import, before the fixture that hides the caller's settings."""


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
