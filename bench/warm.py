"""What a node pays for an image whose blocks are cached, against the same image as a local file, in one run.

    python -m bench.warm [--rounds 15] [--output bench/results/warm.json]

Needs root (page cache, loop devices), nginx, fio and Apptainer. Starts are interleaved and compared by medians;
"dropped" means that the page cache of the whole machine was dropped before each start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.images import default_directory, real_sif
from bench.nginx import Nginx
from tests.support.mount import Mount, scrubbed_environment

JOBS = {
    "/bin/true": ("/bin/true",),
    "python import": ("python3", "-c", "import numpy, sqlite3, email.message"),
}
READERS = (1, 4, 16)
READ_S = 5
MANY_FRAMES = 1_000_000
GOALS = {
    "start, page cache dropped": "at most 1.1 of local",
    "start, hot": "at most 1.05 of local",
    "4 KiB random, 4 readers": "25,000/s",
    "1 MiB sequential": "1 GB/s",
    "memory": "under 150 MB",
    "mount with a million frames": "under 0.5 s",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.warm", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "warm.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lazysif-bench-") as work:
        results = measure(Path(work), options.rounds)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


def measure(work: Path, rounds: int) -> dict[str, Any]:
    served = work / "served"
    served.mkdir()
    image = real_sif(default_directory())
    for name in ("image.sif", *(f"copy-{number}.sif" for number in range(20))):
        (served / name).symlink_to(image)
    results: dict[str, Any] = {
        "machine": {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "image_bytes": image.stat().st_size,
    }
    with Nginx(served) as origin, mount_at(work / "main", origin.url) as mount:
        fill(mount.path / "image.sif")
        results["starts"] = {
            name: starts(image, mount.path / "image.sif", job, rounds) for name, job in JOBS.items()
        }
        results["reads"] = reads(image, mount.path / "image.sif")
    with Nginx(served) as origin, mount_at(work / "memory", origin.url) as mount:
        results["memory"] = memory(mount)
    results["mount_s"] = mount_times(work)
    return results


def mount_at(root: Path, url: str) -> Mount:
    # compiled modules, as an installation has them; the daemon's log level is the default
    return Mount(root, url, environment={"PYTHONDONTWRITEBYTECODE": ""}, log_level="info")


def fill(path: Path) -> None:
    """Read the image once, and give its blocks time to reach the disk."""
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    time.sleep(3)


# --- starts ------------------------------------------------------------------------------------------------


def starts(local: Path, lazy: Path, job: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Seconds of `apptainer exec`, by page cache and by where the image is."""
    taken: dict[str, dict[str, list[float]]] = {
        cache: {"local": [], "lazysif": []} for cache in ("dropped", "hot")
    }
    for _ in range(rounds):
        for cache, prepare in (("dropped", drop_page_cache), ("hot", lambda: None)):
            for where, image in (("local", local), ("lazysif", lazy)):
                prepare()
                taken[cache][where].append(start_s(image, job))
    return {cache: compared(figures["local"], figures["lazysif"]) for cache, figures in taken.items()}


def start_s(image: Path, job: tuple[str, ...]) -> float:
    began_s = time.monotonic()
    subprocess.run(
        ["apptainer", "--silent", "exec", "--no-privs", "--cleanenv", "--no-home", str(image), *job],
        check=True,
        capture_output=True,
        env=scrubbed_environment(),
    )
    return time.monotonic() - began_s


def compared(local: list[float], lazy: list[float]) -> dict[str, Any]:
    medians = statistics.median(local), statistics.median(lazy)
    return {
        "local_s": round(medians[0], 4),
        "lazysif_s": round(medians[1], 4),
        "ratio": round(medians[1] / medians[0], 3),
        "local_all_s": [round(value, 4) for value in local],
        "lazysif_all_s": [round(value, 4) for value in lazy],
    }


def drop_page_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


# --- reads -------------------------------------------------------------------------------------------------


def reads(local: Path, lazy: Path) -> list[dict[str, Any]]:
    """fio on the open file: every read through the daemon (O_DIRECT), and through the page cache."""
    # O_DIRECT on the local file would measure the disk; what a local reader gets is the page cache
    ways = {
        "4 KiB random within 40 MiB": ("--rw=randread", "--bs=4k", "--size=40m"),
        "4 KiB random, whole image": ("--rw=randread", "--bs=4k"),
        "1 MiB sequential": ("--rw=read", "--bs=1M"),
    }
    rows = []
    for what, arguments in ways.items():
        for readers in READERS:
            daemon = fio(lazy, readers, "--direct=1", *arguments)
            cached = fio(lazy, readers, "--direct=0", *arguments)
            file = fio(local, readers, "--direct=0", *arguments)
            rows.append({
                "what": what,
                "readers": readers,
                "daemon": daemon,
                "page_cache": cached,
                "local_page_cache": file,
                "ratio_page_cache": round(cached["mb_per_s"] / file["mb_per_s"], 3),
            })  # fmt: skip
    return rows


def fio(path: Path, readers: int, *arguments: str) -> dict[str, float]:
    command = ["fio", "--name=read", f"--filename={path}", "--readonly", "--ioengine=psync", "--invalidate=0",
               f"--numjobs={readers}", f"--runtime={READ_S}", "--time_based", "--group_reporting",
               "--output-format=json", *arguments]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tempfile.gettempdir())
    read = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
    return {
        "per_s": round(read["iops"]),
        "mb_per_s": round(read["bw_bytes"] / 1e6, 1),
        "mean_us": round(read["lat_ns"]["mean"] / 1000, 1),
        "p99_us": round(read["clat_ns"]["percentile"]["99.000000"] / 1000, 1),
    }


# --- memory and mount time ---------------------------------------------------------------------------------


def memory(mount: Mount) -> dict[str, float]:
    """Resident megabytes of the daemon: at its start, with 20 images open and read, and its highest."""
    figures = {"start_mb": resident_mb(mount.pid, "VmRSS")}
    handles = [os.open(mount.path / f"copy-{number}.sif", os.O_RDONLY) for number in range(20)]
    try:
        for number in range(20):
            subprocess.run(
                ["cat", str(mount.path / f"copy-{number}.sif")], stdout=subprocess.DEVNULL, check=True
            )
        figures["twenty_images_open_mb"] = resident_mb(mount.pid, "VmRSS")
        together = [
            subprocess.Popen(["cat", str(mount.path / f"copy-{number}.sif")], stdout=subprocess.DEVNULL)
            for number in range(5)
        ]
        for reader in together:
            reader.wait()
        figures["highest_mb"] = resident_mb(mount.pid, "VmHWM")
    finally:
        for handle in handles:
            os.close(handle)
    return figures


def resident_mb(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6, 1)


def mount_times(work: Path) -> dict[str, float]:
    """Seconds of `lazysif mount` with an empty cache and with one of a million frames; medians of five."""
    return {
        "empty": mount_time(work / "empty", lambda _: None),
        "million_frames": mount_time(work / "million", add_frames),
    }


def mount_time(root: Path, prepare: Callable[[Path], None]) -> float:
    mount = mount_at(root, "http://127.0.0.1:9/")
    with mount:
        pass  # makes the directories and the databases
    prepare(mount.cache_dir)
    taken = []
    for _ in range(5):
        began_s = time.monotonic()
        mount.run("mount", "http://127.0.0.1:9/", mount.path, "--cache-dir", mount.cache_dir,
                  "--state-dir", mount.state_dir)  # fmt: skip
        taken.append(time.monotonic() - began_s)
        mount.pid = int(mount.status()["pid"])
        mount.umount()
    return round(statistics.median(taken), 3)


def add_frames(cache: Path) -> None:
    """Rows as the store writes them, without their files: opening must not look at these either."""
    (database,) = cache.glob("frames-v*/cache.db")
    now_s = time.time()
    rows = (
        (
            number.to_bytes(32, "big"),
            1,
            now_s,
            now_s + number,
            now_s,
            0,
            None,
            131072,
            2,
            f"00/{number:x}.val",
        )
        for number in range(MANY_FRAMES)
    )
    with sqlite3.connect(database) as db:
        db.executemany(
            "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, "
            "filename) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
    db.close()


# --- the table ---------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The Markdown of docs/benchmarks.md."""
    lines = ["| | local file | lazysif | ratio | goal |", "|---|---|---|---|---|"]
    for job, caches in results["starts"].items():
        for cache, figures in caches.items():
            goal = GOALS["start, page cache dropped" if cache == "dropped" else "start, hot"]
            lines.append(
                f"| start of `{job}`, page cache {cache} | {figures['local_s']:.3f} s | {figures['lazysif_s']:.3f} s "
                f"| {figures['ratio']:.2f} | {goal} |"
            )
    memory_mb, mount_s = results["memory"], results["mount_s"]
    lines += [
        f"| resident memory, 20 images open and read (highest) | | {memory_mb['twenty_images_open_mb']} MB "
        f"({memory_mb['highest_mb']} MB) | | {GOALS['memory']} |",
        f"| `lazysif mount`, empty cache (a million frames) | | {mount_s['empty']} s ({mount_s['million_frames']} s) "
        f"| | {GOALS['mount with a million frames']} |",
        "",
        "| reads of cached blocks | readers | through the daemon | mean, p99 | through the page cache | of local |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["reads"]:
        daemon, cached = row["daemon"], row["page_cache"]
        lines.append(
            f"| {row['what']} | {row['readers']} | {daemon['per_s']:,}/s, {daemon['mb_per_s']:,.0f} MB/s "
            f"| {daemon['mean_us']:,.0f} µs, {daemon['p99_us']:,.0f} µs | {cached['mb_per_s']:,.0f} MB/s "
            f"| {row['ratio_page_cache']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
