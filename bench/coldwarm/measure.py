"""The order of a measurement: profiles one after the other, rounds over jobs and systems within each."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import lazysif
from bench.coldwarm.floors import Beside, Fuse
from bench.coldwarm.jobs import drop_page_cache, start_s
from bench.coldwarm.lazy import Cache, Cached, Cold, Shared, Traced, Traces
from bench.coldwarm.line import PROFILES
from bench.coldwarm.results import Results
from bench.coldwarm.stage import Stage, on_stage
from bench.coldwarm.systems import RCLONE_FLAGS, Download, Local, Rclone, System, run_of
from bench.recorder import Recorder, touched_bytes

PROGRAMS = {"rclone": "rclone", "local-fuse": "fuse-overlayfs"}
"""What systems need that a node may not have."""
HERD_SYSTEMS = ("local-cold", "cold", "cold-trace")
DISK_BYTES = 512 << 20
READ_AHEAD_KB = 32
"""As the daemon sets it for its mount (lazysif.fuse.serving)."""
Say = Callable[[str], None]
Step = tuple[str, str, str, int, int]
"""Profile, job, system, round, starts at once: the key of a run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured; `herd` is a number of starts at once, or 0."""

    profiles: list[str]
    jobs: list[str]
    systems: list[str]
    rounds: int
    herd: int

    def steps(self, profile: str) -> Iterator[Step]:
        """Keys of the runs of a profile, in order: rounds are interleaved, so that all systems see the same noise."""
        for number in range(1, self.rounds + 1):
            for job in self.jobs:
                for system in self.systems:
                    # the download, which takes minutes, is timed once; a trace of the job's own is no other job's
                    if (system == "download" and number > 1) or (
                        system == "cold-heavy-trace" and job == "heavy"
                    ):
                        continue
                    yield profile, job, system, number, 1
        if self.herd:
            for system in (system for system in HERD_SYSTEMS if system in self.systems):
                yield profile, self.jobs[-1], system, 1, self.herd


def measure(plan: Plan, image: Path, results: Results, say: Say) -> None:
    """Make the runs of the plan that the results do not have yet; each is written down at once.

    Raises:
        JobFailed, OSError, RuntimeError, subprocess.CalledProcessError: something does not work here; all mounts
            are gone again.
    """
    for system, program in PROGRAMS.items():
        if system in plan.systems and shutil.which(program) is None:
            say(f"no {program} here: {system} is left out")
            plan.systems.remove(system)
    # on the disk of the image, so that caches and the local file are equally fast to read
    with tempfile.TemporaryDirectory(prefix="coldwarm-", dir=image.parent) as directory:
        work = Path(directory)
        results.about = about(image)
        for job in plan.jobs:
            if job not in results.touched:
                results.touched[job] = touched(image, work, job)
                say(f"{job} touches {results.touched[job]['bytes'] / 1e6:.1f} MB")
        learned: dict[tuple[str, ...], Path] = {}
        for profile in plan.profiles:
            steps = [step for step in plan.steps(profile) if step not in results.keys]
            if steps:
                with on_stage(PROFILES[profile], image, work) as stage:
                    results.profiles[profile] = stage.measured
                    say(f"{profile}: {stage.measured}")
                    run_steps(stage, steps, Traces(stage, learned), results, say)


def run_steps(stage: Stage, steps: list[Step], traces: Traces, results: Results, say: Say) -> None:
    """Raises: as `measure`."""
    with ExitStack() as stack:
        jobs = list(dict.fromkeys(job for _, job, *_ in steps))
        made: dict[str, System] = {}
        cache = Cache(stage)
        stack.callback(cache.close)
        for name in dict.fromkeys(system for _, _, system, *_ in steps):
            made[name] = system_named(name, stage, traces, cache, results.touched)
            stack.callback(made[name].close)
            say(f"{stage.profile.name}: preparing {name}")
            made[name].prepare(jobs)
        for _, job, name, number, herd in steps:
            taken_s, meter = made[name].run(job, herd)
            run = run_of(stage, name, job, number, herd, taken_s, meter)
            results.add(run)
            say(
                f"{stage.profile.name}, round {number}: {job}{f' x {herd}' if herd > 1 else ''}, {name}: "
                f"{run.seconds:.3f} s, {run.fetched_bytes / 1e6:.1f} MB, {run.requests} requests"
            )


def system_named(
    name: str, stage: Stage, traces: Traces, cache: Cache, touched: dict[str, dict[str, int]]
) -> System:
    makers: dict[str, Callable[[], System]] = {
        "local-cold": lambda: Local(stage, cold=True),
        "local-hot": lambda: Local(stage, cold=False),
        "local-beside": lambda: Beside(stage, {job: count["bytes"] for job, count in touched.items()}),
        "local-fuse": lambda: Fuse(stage),
        "download": lambda: Download(stage),
        "rclone": lambda: Rclone(stage),
        "cold": lambda: Cold(stage),
        "cold-trace": lambda: Traced(stage, traces),
        "cold-trace-plain": lambda: Traced(stage, traces, plain=True),
        "cold-heavy-trace": lambda: Traced(stage, traces, of_heavy_only=True),
        "cold-folder": lambda: Shared(stage, by_put=False),
        "cold-put": lambda: Shared(stage, by_put=True),
        "warm": lambda: Cached(stage, cache, hot=False),
        "warm-plain": lambda: Cached(stage, Cache(stage, plain=True), hot=False),
        "hot": lambda: Cached(stage, cache, hot=True),
    }
    return makers[name]()


def touched(image: Path, work: Path, job: str) -> dict[str, int]:
    """What a job's start reads of its image.

    `bytes` is what comes to a mount through the page cache, with the kernel's readahead of a lazysif mount;
    `exact_bytes` what the file system driver asks for, noted by passing the page cache by.
    """
    found: dict[str, int] = {}
    for name, direct in (("", False), ("exact_", True)):
        drop_page_cache()
        with Recorder(
            image, work / f"touched-{name}{job}", direct=direct, read_ahead_kb=READ_AHEAD_KB
        ) as recorder:
            start_s(recorder.path, job)
        found |= {f"{name}bytes": touched_bytes(recorder.reads), f"{name}reads": len(recorder.reads)}
    return found


def about(image: Path) -> dict[str, object]:
    """The machine, the image, and the versions of what is compared with."""
    drop_page_cache()
    began_s = time.monotonic()
    with image.open("rb", buffering=0) as file:
        read_bytes = sum(iter(lambda: len(file.read(1 << 20)) if file.tell() < DISK_BYTES else 0, 0))
    disk_s = time.monotonic() - began_s
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6,
        "disk_mb_per_s": round(read_bytes / 1e6 / disk_s),
        "python": platform.python_version(),
        "lazysif": lazysif.__version__,
        "apptainer": version("apptainer", "--version"),
        "rclone": version("rclone", "version"),
        "rclone_flags": " ".join(RCLONE_FLAGS),
        "image": image.name,
        "image_bytes": image.stat().st_size,
    }


def version(*command: str) -> str:
    """What a program says of itself first, empty if it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    except FileNotFoundError:
        return ""
