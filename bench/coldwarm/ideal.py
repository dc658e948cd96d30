"""The least that a first start with a trace can take: nobody follows better than who knows all from the look-up on.

    python -m bench.coldwarm.ideal [--job heavy] [--image big|small]

One warm start (cache filled, daemon new, no trace, page cache dropped) is recorded, which says when the job touches
each block where nothing is waited for. Then it is replayed against each profile's line: blocks are asked for in that
order, as many at once as keep the line full, from one round trip after the look-up on; the line brings them one after
the other; the job touches each when it is due and there. Prefetch in another order, or blocks of another size, could
take less; a real follower takes more.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bench.coldwarm.images import IMAGES, image_of, say
from bench.coldwarm.jobs import JOBS, JobFailed, drop_page_cache, start_s
from bench.coldwarm.lazy import OFFERED_S, TRACES, WRITTEN_S, mount_at
from bench.coldwarm.line import PROFILES, Profile
from bench.images import CannotBuild
from bench.nginx import Nginx
from lazysif.traces.trace_file import read_trace

LOOKUP_ROUND_TRIPS = 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.coldwarm.ideal", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--job", choices=JOBS, default="heavy")
    parser.add_argument("--image", choices=IMAGES, default="big")
    options = parser.parse_args()
    try:
        image = image_of(options.image)
        with tempfile.TemporaryDirectory(prefix="lazysif-bench-") as work:
            warm_s, touched_s, block_bytes = recorded(image, options.job, Path(work))
        drop_page_cache()
        local_s = start_s(image, options.job)
    except (CannotBuild, JobFailed, AssertionError, OSError, subprocess.CalledProcessError) as error:
        print(f"ideal: {error}", file=sys.stderr)
        return 1
    size_bytes = len(touched_s) * block_bytes
    say(
        f"{options.job}: {size_bytes / 1e6:.0f} MB in blocks, local file {local_s:.2f} s, warm {warm_s:.2f} s"
    )
    for profile in PROFILES.values():
        least_s = local_s + replay_s(touched_s, block_bytes, profile) - touched_s[-1]
        line_s = size_bytes * 8 / profile.bits_per_s
        say(f"{profile.name}: line {line_s:.2f} s, start {least_s:.2f} s, {least_s / local_s:.2f} of local")
    return 0


def recorded(image: Path, job: str, room: Path) -> tuple[float, list[float], int]:
    """Seconds of a warm start, seconds from its first touch to each first touch of a block, and bytes of a block.

    Raises:
        JobFailed: the job did.
    """
    with Nginx(image.parent) as origin:
        with mount_at(room, origin.url) as mount:
            start_s(mount.path / image.name, job)
            time.sleep(WRITTEN_S + OFFERED_S)
        shutil.rmtree(room / "state" / TRACES)
        with mount_at(room, origin.url) as mount:
            drop_page_cache()
            taken_s = start_s(mount.path / image.name, job)
            time.sleep(OFFERED_S)
    (path,) = (room / "state" / TRACES).iterdir()
    trace = read_trace(path)
    assert trace is not None, f"{path} is gone"
    return taken_s, [ms / 1000 for ms in trace.paths[0].times_ms], trace.block_size


def replay_s(touched_s: Sequence[float], block_bytes: int, profile: Profile) -> float:
    """When the last block is touched, from the look-up on, if each must have come first."""
    came_s = (LOOKUP_ROUND_TRIPS + 1) * profile.round_trip_s
    now_s = LOOKUP_ROUND_TRIPS * profile.round_trip_s
    for before_s, due_s in pairwise((0.0, *touched_s)):
        came_s += block_bytes * 8 / profile.bits_per_s
        now_s = max(now_s + due_s - before_s, came_s)
    return now_s


if __name__ == "__main__":
    sys.exit(main())
