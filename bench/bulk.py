"""A whole image into the cache by `lazysif warm --wait`, against `curl -o` of the same file, in one run.

    python -m bench.bulk [--where memory,disk] [--rounds 6] [--size 1GiB] [--fresh] [--output bench/results/bulk.json]

Needs nginx, curl, FUSE and root (for a tmpfs). nginx serves a file of random bytes (the payload of squashfs does not
shrink either) from memory over loopback. Both sides write the same bytes to the same file system:

- *memory*: a tmpfs, which shows the software's share alone.
- *disk*: that of the temporary directory, or with `--fresh` an ext4 of its own in a file.

Who comes first after a pause writes into the page cache, and the other pays for the writeback: so all is synced
before each measurement, the order changes from round to round (ABBA), and what counts is the median of the ratios of
neighbours, for either order, too. What the disk gives by itself is measured before the rounds and after them. On disk
nothing is deleted before the end: ext4 takes up to twenty times as long to make a file where many were deleted within
the last minutes (it does not give their inodes out again, and looks at each); `--fresh` leaves what others have
deleted out of it.

One more round has a reader of 4 KiB pieces of another image that is cached (O_DIRECT, so that each read is the
daemon's), first alone, then while all is brought. The results of what was not run this time are kept.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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
    parser.add_argument("--where", default="memory,disk")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GiB"))
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
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for where in options.where.split(","):
        results[where] = measure_in(where, options.rounds, options.size, options.fresh)
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{where}: {table(results[where])}")
    return 0


def measure_in(where: str, rounds: int, size_bytes: int, fresh: bool) -> dict[str, Any]:
    """All rounds on one file system."""
    with tempfile.TemporaryDirectory(prefix="lazysif-bench-") as work, ExitStack() as stack:
        memory = stack.enter_context(tmpfs(Path(work), 4 * size_bytes + (1 << 30)))
        served = memory / "served"
        served.mkdir()
        write_random(served / "image.sif", size_bytes)
        write_random(served / "hot.sif", HOT_BYTES)
        place = memory if where == "memory" else Path(work)
        if where != "memory" and fresh:
            room_bytes = 2 * (rounds + 3) * size_bytes + (2 << 30)
            place = stack.enter_context(fresh_ext4(Path(work), room_bytes))
        results = measure(served, place, rounds, size_bytes, keep=where != "memory")
        results["fresh_file_system"] = where == "memory" or fresh
    return results


def measure(served: Path, place: Path, rounds: int, size_bytes: int, *, keep: bool) -> dict[str, Any]:
    """`keep`: delete nothing before the end."""
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
    given = [file_system_gives(place / "before", served / "image.sif", keep=keep)]
    with Nginx(served) as origin:
        for number in range(rounds):
            sides: list[Callable[[], dict[str, Any]]] = [
                partial(one_download, origin, place / f"downloaded-{number}", size_bytes, keep=keep),
                partial(one_warming, origin, place / f"mount-{number}", size_bytes, keep=keep),
            ]
            first = "curl" if number % 2 == 0 else "lazysif"
            taken = [side() for side in (sides if first == "curl" else reversed(sides))]
            curl, lazy = taken if first == "curl" else reversed(taken)
            results["rounds"].append({"first": first, "curl": curl, "lazysif": lazy})
        with mount_at(place / "mount-read", origin.url) as mount:
            results["moved_by"] = mount.status()["bulk_by"]
            results["reads"] = read_meanwhile(mount, size_bytes)
            os.sync()
    given.append(file_system_gives(place / "after", served / "image.sif", keep=keep))
    results["file_system_mb_per_s"] = given
    ratios = {first: ratios_of(results["rounds"], first) for first in ("curl", "lazysif")}
    results["ratio"] = round(statistics.median(ratios["curl"] + ratios["lazysif"]), 3)
    results["ratios_by_first"] = ratios
    return results


def ratios_of(rounds: list[dict[str, Any]], first: str) -> list[float]:
    """Of the rounds in which this side came first."""
    return [
        round(one["lazysif"]["mb_per_s"] / one["curl"]["mb_per_s"], 3)
        for one in rounds
        if one["first"] == first
    ]


def file_system_gives(path: Path, source: Path, *, keep: bool) -> dict[str, float]:
    """The rate of plain writes of the image's bytes to one file, until they are in the page cache, and on disk."""
    os.sync()
    with source.open("rb") as reading, path.open("wb") as writing:
        began_s = time.monotonic()
        shutil.copyfileobj(reading, writing, 1 << 20)
        cached_s = time.monotonic() - began_s
        os.fsync(writing.fileno())
        synced_s = time.monotonic() - began_s
    size_bytes = path.stat().st_size
    if not keep:
        path.unlink()
    return {
        "cached": figures(cached_s, size_bytes)["mb_per_s"],
        "synced": figures(synced_s, size_bytes)["mb_per_s"],
    }


def one_download(origin: Nginx, path: Path, size_bytes: int, *, keep: bool) -> dict[str, float]:
    taken = download(origin, path, size_bytes)
    if not keep:
        path.unlink()
    return taken


def one_warming(origin: Nginx, root: Path, size_bytes: int, *, keep: bool) -> dict[str, float]:
    with mount_at(root, origin.url) as mount:
        origin.clear_log()
        taken = warm(mount, size_bytes)
        taken["origin_bytes"] = origin.bytes_sent("/image.sif")
        os.sync()  # the daemon's end waits for the disk, and a mount has 20 s to end
    if not keep:
        shutil.rmtree(root)
    return taken


@contextmanager
def tmpfs(work: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory of its own."""
    place = work / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


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
            f"ratio {lazy['mb_per_s'] / curl['mb_per_s']:.2f}   {one['first']} first   "
            f"daemon {lazy['daemon_cpu_s']:.2f} s of processor"
        )
    for words, given in zip(("before", "after"), results["file_system_mb_per_s"], strict=True):
        lines.append(f"plain writes {words}: {given['cached']:.0f} MB/s, synced {given['synced']:.0f} MB/s")
    reads = results["reads"]
    for words, name in (("alone", "alone"), ("during warm", "during_warm")):
        read = reads[name]
        lines.append(
            f"4 KiB reads {words}: {read['reads']}, p50 {read['p50_ms']:.2f} ms, p99 {read['p99_ms']:.2f} ms, "
            f"longest {read['longest_ms']:.1f} ms"
        )
    goals = ", ".join(f"{name} {value}" for name, value in GOALS.items())
    by_first = results["ratios_by_first"]
    medians = ", ".join(
        f"{statistics.median(ratios):.2f} with {first} first" for first, ratios in by_first.items() if ratios
    )
    lines.append(f"ratio {results['ratio']:.2f} (median; {medians}); goals: {goals}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
