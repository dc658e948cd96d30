"""A whole image into the cache by `lazysif warm --wait`, against `curl -o` of the same file, in one run.

    python -m bench.bulk [--rounds 3] [--size 2GiB] [--fresh] [--output bench/results/bulk.json]

Needs nginx, curl and FUSE. nginx serves a file of random bytes (the payload of squashfs does not shrink either) over
loopback. Rounds alternate; each has a new cache, and nothing is deleted before the end: ext4 takes up to twenty times
as long to make a file where many were deleted within the last minutes (it does not give their inodes out again, and
looks at each). `--fresh` leaves what others have deleted out of it. One more round has a reader of 4 KiB pieces of
another image that is cached (O_DIRECT, so that each read is the daemon's), first alone, then while all is brought.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.nginx import Nginx
from lazysif.sizes import parse_size
from tests.support.mount import Mount, scrubbed_environment

GOALS = {"rate against curl -o": "at least 0.8", "4 KiB reads meanwhile, p99": "under 20 ms"}
READ_BYTES = 4096
HOT_BYTES = 32 << 20
ALONE_S = 3.0
REPOSITORY = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bulk", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=parse_size, default=parse_size("2GiB"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bulk.json")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="on an ext4 of its own in a file (root): no file was deleted there yet",
    )
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(latencies(options.read)))
        return 0
    with tempfile.TemporaryDirectory(prefix="lazysif-bench-") as work:
        room_bytes = (options.rounds + 1) * 3 * options.size + (2 << 30)
        with fresh_ext4(Path(work), room_bytes) if options.fresh else nullcontext(Path(work)) as disk:
            results = measure(disk, options.rounds, options.size)
        results["fresh_file_system"] = options.fresh
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


def measure(work: Path, rounds: int, size_bytes: int) -> dict[str, Any]:
    served = work / "served"
    served.mkdir()
    write_random(served / "image.sif", size_bytes)
    write_random(served / "hot.sif", HOT_BYTES)
    results: dict[str, Any] = {
        "machine": {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "image_bytes": size_bytes,
        "rounds": [],
    }
    with Nginx(served) as origin:
        for number in range(rounds):
            downloaded = download(origin, work / f"downloaded-{number}", size_bytes)
            with mount_at(work / f"mount-{number}", origin.url) as mount:
                results["moved_by"] = mount.status()["bulk_by"]
                origin.clear_log()
                warmed = warm(mount, size_bytes)
                warmed["origin_bytes"] = origin.bytes_sent("/image.sif")
                os.sync()  # the daemon's end waits for the disk, and a mount has 20 s to end
            results["rounds"].append({"curl": downloaded, "lazysif": warmed})
        with mount_at(work / "mount-read", origin.url) as mount:
            results["reads"] = read_meanwhile(mount, size_bytes)
            os.sync()
    ratios = [one["lazysif"]["mb_per_s"] / one["curl"]["mb_per_s"] for one in results["rounds"]]
    results["ratio"] = round(statistics.median(ratios), 3)
    results["ratios"] = [round(ratio, 3) for ratio in ratios]
    return results


@contextmanager
def fresh_ext4(work: Path, size_bytes: int) -> Iterator[Path]:
    """A mounted file system of its own, in a sparse file."""
    image, disk = work / "disk.img", work / "disk"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    disk.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def write_random(path: Path, size_bytes: int) -> None:
    generator = random.Random(size_bytes)
    with path.open("wb") as file:
        for start in range(0, size_bytes, 16 << 20):
            file.write(generator.randbytes(min(16 << 20, size_bytes - start)))


def mount_at(root: Path, url: str) -> Mount:
    # compiled modules, as an installation has them; the daemon's log level is the default
    options = ("--cache-size", "90%", "--min-free", "1%")
    environment = {"PYTHONDONTWRITEBYTECODE": ""}
    return Mount(root, url, options=options, environment=environment, log_level="info")


def download(origin: Nginx, path: Path, size_bytes: int) -> dict[str, float]:
    os.sync()
    began_s = time.monotonic()
    subprocess.run(
        ["curl", "--silent", "--fail", "--noproxy", "*", "-o", str(path), f"{origin.url}/image.sif"],
        check=True,
    )
    return figures(time.monotonic() - began_s, size_bytes)


def warm(mount: Mount, size_bytes: int, name: str = "image.sif") -> dict[str, float]:
    """The whole command, as a person waits for it, and the daemon's processor time meanwhile."""
    os.sync()
    cpu_s = processor_s(mount.pid)
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "lazysif", "warm", "--all", "--wait", str(mount.path / name)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=scrubbed_environment(LAZYSIF_RUNTIME_DIR=str(mount.runtime_dir)),
    )
    taken = figures(time.monotonic() - began_s, size_bytes)
    return {**taken, "daemon_cpu_s": round(processor_s(mount.pid) - cpu_s, 2)}


def figures(seconds: float, size_bytes: int) -> dict[str, float]:
    return {"seconds": round(seconds, 3), "mb_per_s": round(size_bytes / seconds / 1e6, 1)}


def processor_s(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- reads meanwhile ----------------------------------------------------------------------------------------


def read_meanwhile(mount: Mount, size_bytes: int) -> dict[str, Any]:
    """Latencies of reads of a cached image, with nothing else going on and during a warm."""
    warm(mount, HOT_BYTES, "hot.sif")
    alone = Reader(mount)
    time.sleep(ALONE_S)
    results: dict[str, Any] = {"alone": alone.end()}
    meanwhile = Reader(mount)
    results["warm"] = warm(mount, size_bytes)
    results["during_warm"] = meanwhile.end()
    return results


class Reader:
    """A process of its own, so that it waits for the daemon alone."""

    def __init__(self, mount: Mount) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bulk", "--read", str(mount.path / "hot.sif")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "reading\n"

    def end(self) -> dict[str, float]:
        out, _ = self._process.communicate("\n", timeout=60)
        return dict(json.loads(out))


def latencies(path: Path) -> dict[str, float]:
    """Read 4 KiB pieces at random until something is said on standard input."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, READ_BYTES)
    pieces = os.fstat(descriptor).st_size // READ_BYTES
    choose = random.Random(7).randrange
    taken: list[float] = []
    os.set_blocking(0, False)
    print("reading", flush=True)
    while not os_said():
        for _ in range(50):
            began_s = time.perf_counter()
            os.preadv(descriptor, [buffer], choose(pieces) * READ_BYTES)
            taken.append(time.perf_counter() - began_s)
    taken.sort()
    return {
        "reads": len(taken),
        "p50_ms": round(taken[len(taken) // 2] * 1000, 3),
        "p99_ms": round(taken[len(taken) * 99 // 100] * 1000, 3),
        "p999_ms": round(taken[len(taken) * 999 // 1000] * 1000, 3),
        "longest_ms": round(taken[-1] * 1000, 3),
    }


def os_said() -> bool:
    try:
        os.read(0, 1)
    except BlockingIOError:
        return False
    return True


def table(results: dict[str, Any]) -> str:
    """For people."""
    lines = [f"moved by {results['moved_by']}, {results['image_bytes'] / 1e6:.0f} MB"]
    for one in results["rounds"]:
        curl, lazy = one["curl"], one["lazysif"]
        lines.append(
            f"curl -o {curl['mb_per_s']:7.1f} MB/s   lazysif warm {lazy['mb_per_s']:7.1f} MB/s   "
            f"ratio {lazy['mb_per_s'] / curl['mb_per_s']:.2f}   daemon {lazy['daemon_cpu_s']:.2f} s of processor"
        )
    reads = results["reads"]
    for words, name in (("alone", "alone"), ("during warm", "during_warm")):
        read = reads[name]
        lines.append(
            f"4 KiB reads {words}: {read['reads']}, p50 {read['p50_ms']:.2f} ms, p99 {read['p99_ms']:.2f} ms, "
            f"longest {read['longest_ms']:.1f} ms"
        )
    goals = ", ".join(f"{name} {value}" for name, value in GOALS.items())
    lines.append(f"ratio {results['ratio']:.2f} (median); goals: {goals}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
