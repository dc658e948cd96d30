"""A day of evictions, pins, restarts and full disks in minutes: memory, descriptors, quota and floor hold.

CI runs four hours of it, LAZYSIF_FULL=1 all 24. The workload is `tests.support.churn`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from lazysif.cache.fsck import check_offline
from tests.support.cache_damage import command
from tests.support.churn import FLOOR_BYTES, LIMIT_BYTES, MIB, ROUNDS_AN_HOUR
from tests.support.stress import FULL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mounted,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

HOURS = 24 if FULL else 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=128m,mode=700", "tmpfs", path)
    yield path
    command("umount", path)


def test_a_day_of_churn_leaves_all_within_its_bounds(disk: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.churn", str(disk / "cache"), str(HOURS * ROUNDS_AN_HOUR)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    day = json.loads(done.stdout)
    samples = day.pop("samples")
    warm = samples[len(samples) // 4 :]
    third = len(warm) // 3
    early, late = warm[:third], warm[-third:]
    figures = {
        "hours": HOURS,
        **{name: value for name, value in day.items() if name != "counters"},
        "evicted": day["counters"]["frames_evicted"],
        "rss_mib": [round(median(s["rss"] for s in part) / MIB, 1) for part in (early, late)],
        "descriptors": [max(s["descriptors"] for s in part) for part in (early, late)],
        "most_used_of_limit": round(max(s["used"] for s in samples) / LIMIT_BYTES, 4),
        "least_free_of_floor": round(min(s["free"] for s in samples) / FLOOR_BYTES, 4),
        "said_less_than_used": max(s["used"] - s["said"] for s in samples),
    }
    print(json.dumps(figures))
    assert day["wrong"] == 0
    assert day["loaded"] > 1000
    assert figures["evicted"] > 1000
    assert day["counters"]["unexpected_errors"] == day["counters"]["frames_quarantined"] == 0
    assert figures["rss_mib"][1] <= figures["rss_mib"][0] * 1.05 + 2
    assert figures["descriptors"][1] <= figures["descriptors"][0]
    assert figures["most_used_of_limit"] <= 1.02
    assert figures["least_free_of_floor"] >= 1
    assert check_offline(disk / "cache", dry_run=False, tell=lambda _: None).clean
