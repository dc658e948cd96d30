"""The demonstration behind scripts/demo: one image, one job, cold and warm, 20 ms away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.images import CannotBuild, default_directory, partition_of, real_sif, small_sif
from bench.nginx import Nginx, find_nginx
from bench.shaper import Shaper
from tests.support.raw_origin import RawOrigin

ROUND_TRIP_S = 0.02
BITS_PER_S = 200e6
"""The image is some 20 times smaller than those that jobs use, and so is the line."""
LAZYSIF = Path(sys.executable).with_name("lazysif")
JOB = ("python3", "-c", "import json, ssl, numpy; print(numpy.random.default_rng(1).random(10).sum())")


@dataclass(frozen=True)
class Row:
    what: str
    seconds: float
    fetched_bytes: int


Job = Callable[[Path], None]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stack = ExitStack()
    try:
        demonstrate(stack)
    except KeyboardInterrupt:
        say("\nstopping")
        return 130
    except (CannotBuild, subprocess.CalledProcessError, OSError, RuntimeError) as error:
        print(f"lazysif demo: {error} {getattr(error, 'stderr', '') or ''}".rstrip(), file=sys.stderr)
        return 1
    finally:
        with uninterrupted():
            stack.close()
    return 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back: a mount or a cleanup that stops half-way would leave something behind."""
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        # a function, and not SIG_IGN: that the daemon would inherit
        signal.signal(number, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            os.kill(os.getpid(), held[0])


def demonstrate(stack: ExitStack) -> None:
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazysif-demo-")))
    served = work / "served"
    served.mkdir(mode=0o755)
    image, job = prepare(work)
    (served / "image.sif").symlink_to(image)
    size_bytes = image.stat().st_size

    origin = serve(served)
    stack.enter_context(origin)
    shaper = stack.enter_context(Shaper(origin.port, round_trip_s=ROUND_TRIP_S, bits_per_s=BITS_PER_S))
    say(
        f"serving it from {ROUND_TRIP_S * 1000:.0f} ms and {BITS_PER_S / 1e6:.0f} Mbit/s away: {shaper.url}/image.sif"
    )

    rows = [whole_image_first(f"{shaper.url}/image.sif", work / "whole.sif", job)]
    mountpoint = work / "images"
    mountpoint.mkdir()
    stack.callback(unmount, mountpoint)
    mount(shaper.url, mountpoint, work)
    rows.append(measure("lazysif, first start", mountpoint, job))
    rows.append(measure("lazysif, second start", mountpoint, job))
    unmount(mountpoint)
    mount(shaper.url, mountpoint, work)
    rows.append(measure("lazysif, after unmounting and mounting again", mountpoint, job))
    show(rows, size_bytes)


def prepare(work: Path) -> tuple[Path, Job]:
    """An image on the local disk, and a job to run from it."""
    kept = default_directory()
    try:
        image = real_sif(kept if kept.is_dir() else work, say)
    except CannotBuild as reason:
        say(f"no Debian image ({reason}): taking made-up files instead")
        image = work / "made-up.sif"
        small_sif(image, bulk_bytes=24 * 1024 * 1024)
        return image, lambda path: run_by_squashfuse(path, read_small_files)
    say(f"the image is {image.name}, {megabytes(image.stat().st_size)}")
    if shutil.which("apptainer"):
        say(f"the job is: apptainer exec image.sif {' '.join(JOB[:2])} '{JOB[2]}'")
        return image, run_by_apptainer
    if os.geteuid() == 0:
        say(f"no Apptainer here; the job is, in a chroot on a loop mount: {' '.join(JOB[:2])} '{JOB[2]}'")
        return image, run_by_loop_mount
    say("no Apptainer here; the job is reading small files through squashfuse")
    return image, lambda path: run_by_squashfuse(path, read_small_files)


def serve(directory: Path) -> Nginx | RawOrigin:
    if find_nginx() is not None:
        return Nginx(directory)
    say("no nginx here; serving by the origin that the tests use")
    return RawOrigin({f"/{path.name}": path.read_bytes() for path in directory.iterdir()})


def run_by_apptainer(image: Path) -> None:
    # --no-privs: root of a container or small virtual machine may lack capabilities that Apptainer asks for
    privileges = ["--no-privs"] if os.geteuid() == 0 else []
    run("apptainer", "--silent", "exec", *privileges, "--cleanenv", "--no-home", image, *JOB)


def run_by_loop_mount(image: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lazysif-demo-root-") as root:
        run("mount", "-t", "squashfs", "-o", f"loop,ro,offset={partition_of(image).offset}", image, root)
        try:
            run("chroot", root, *JOB)
        finally:
            run("umount", root)


def run_by_squashfuse(image: Path, job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="lazysif-demo-root-") as root:
        run("squashfuse", "-o", f"offset={partition_of(image).offset}", image, root)
        try:
            job(Path(root))
        finally:
            run("fusermount3", "-u", root)


def read_small_files(root: Path) -> None:
    for path in sorted(root.rglob("*.py"))[:500]:
        path.read_bytes()


def whole_image_first(url: str, path: Path, job: Job) -> Row:
    """What nodes do today: copy, then run."""
    started_s = time.monotonic()
    with (
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer,
        path.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file, 1024 * 1024)
    job(path)
    row = Row("whole image first, then the job", time.monotonic() - started_s, path.stat().st_size)
    path.unlink()
    return row


def measure(what: str, mountpoint: Path, job: Job) -> Row:
    before = fetched_bytes(mountpoint)
    started_s = time.monotonic()
    job(mountpoint / "image.sif")
    seconds = time.monotonic() - started_s
    return Row(what, seconds, fetched_bytes(mountpoint) - before)


def mount(url: str, mountpoint: Path, work: Path) -> None:
    with uninterrupted():
        run(LAZYSIF, "mount", url, mountpoint, "--cache-dir", work / "cache", "--state-dir", work / "state")


def unmount(mountpoint: Path) -> None:
    """Unmount; a job that was stopped may keep the mount busy for a moment, and then goes with it."""
    if not os.path.ismount(mountpoint):
        return
    try:
        run(LAZYSIF, "umount", mountpoint)
    except subprocess.CalledProcessError:
        run(LAZYSIF, "umount", "--lazy", mountpoint)


def fetched_bytes(mountpoint: Path) -> int:
    document = json.loads(run(LAZYSIF, "status", mountpoint, "--json"))
    return int(document["mounts"][0]["counters"]["fetched_bytes"])


def run(*command: str | Path) -> str:
    """Run in a session of its own, so that Ctrl-C ends the demonstration and not a mount half-way."""
    return subprocess.run(
        [str(word) for word in command],
        check=True,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    ).stdout


def show(rows: list[Row], size_bytes: int) -> None:
    width = max(len(row.what) for row in rows)
    print(f"\n{'':{width}}  {'time':>8}  {'fetched':>9}  of image")
    for row in rows:
        share = f"{100 * row.fetched_bytes / size_bytes:.1f} %"
        print(f"{row.what:{width}}  {row.seconds:6.2f} s  {megabytes(row.fetched_bytes):>9}  {share:>8}")


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # held back until everything was cleaned up
        sys.exit(130)
