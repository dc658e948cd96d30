"""What is started, how a start is timed, and the page cache between starts."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.big_image import HEAVY_IMPORT, LIGHT_IMPORT
from tests.support.mount import scrubbed_environment

JOBS: dict[str, tuple[str, ...]] = {
    "true": ("/bin/true",),
    "shell": ("sh", "-c", "echo hi; ls /"),
    "python": ("python3", "-c", "pass"),
    "light": ("python3", "-c", LIGHT_IMPORT),
    "heavy": ("python3", "-c", HEAVY_IMPORT),
}
LIGHT_JOBS = ("true", "shell", "python", "light")
JOB_S = 600
"""A start that takes longer has failed."""


class JobFailed(RuntimeError):
    """The job did not end well; the text has what it printed last."""


def start_s(image: Path, job: str) -> float:
    """Seconds that one start took.

    Raises:
        JobFailed: it did.
    """
    command = [
        "apptainer",
        "--silent",
        "exec",
        "--no-privs",
        "--cleanenv",
        "--no-home",
        str(image),
        *JOBS[job],
    ]
    began_s = time.monotonic()
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=scrubbed_environment(),
            timeout=JOB_S,
        )
    except subprocess.CalledProcessError as error:
        raise JobFailed(f"{job} from {image}: exit {error.returncode}: {error.stderr[-500:]!r}") from None
    except subprocess.TimeoutExpired:
        raise JobFailed(f"{job} from {image} took over {JOB_S} s") from None
    return time.monotonic() - began_s


def herd_s(image: Path, job: str, count: int) -> list[float]:
    """Seconds that each of `count` starts took, all begun at once; sorted.

    Raises:
        JobFailed: one of them did.
    """
    with ThreadPoolExecutor(count) as threads:
        return sorted(threads.map(lambda _: start_s(image, job), range(count)))


def drop_page_cache() -> None:
    """Of the whole machine, as root; origins that serve from memory keep what they serve."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
