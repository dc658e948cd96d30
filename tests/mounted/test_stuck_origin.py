"""An origin that stalls for ever stalls only those who read what is not cached, and those until their time.

Measured figures are printed; the limits asserted are generous, for busy machines.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lazysif.control.client import fetch
from tests.support import readers
from tests.support.faults import StallBeforeHead
from tests.support.mount import Mount, wait_until
from tests.support.raw_origin import Fault, RawOrigin, Request

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]
BLOCK = 128 << 10
BULK = 400 * BLOCK
READERS = 200
LIMIT_S = 3.0


class Stalling:
    """Stalls everything, or the names given, from when it is told to."""

    def __init__(self) -> None:
        self.on = threading.Event()
        self.names: set[str] | None = None

    def __call__(self, request: Request) -> Fault | None:
        if not self.on.is_set() or (self.names is not None and request.path not in self.names):
            return None
        return StallBeforeHead()


@contextmanager
def origin_of(files: dict[str, bytes]) -> Iterator[tuple[RawOrigin, Stalling]]:
    stalling = Stalling()
    with RawOrigin(files, decide=stalling) as origin:
        yield origin, stalling


def configure(path: Path, url: str, *, read_s: float, lookup_s: float = 6.0, stall_s: float = 3.0) -> Path:
    path.write_text(
        f"[limits]\nread_timeout = {read_s}\nlookup_timeout = {lookup_s}\n"
        f'[remote.bio]\nkind = "http"\nurl = "{url}"\nstall_timeout = {stall_s}\nrevalidate = 2\n'
    )
    return path


class Readers:
    """Threads that each read one block that is not cached."""

    def __init__(self, paths: list[Path], number: int) -> None:
        self.handles = [os.open(path, os.O_RDONLY) for path in paths]
        self.results: list[tuple[float, object]] = []
        self.threads = [
            threading.Thread(target=self._read, args=(self.handles[i % len(paths)], (i // len(paths) + 10)))
            for i in range(number)
        ]

    def _read(self, handle: int, block: int) -> None:
        began = time.monotonic()
        try:
            result: object = len(os.pread(handle, 4096, 3 * block * BLOCK // 2))
        except OSError as error:
            result = errno.errorcode[error.errno or 0]
        self.results.append((time.monotonic() - began, result))

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join()
        for handle in self.handles:
            os.close(handle)


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_200_stalled_readers_keep_nobody_else_waiting(
    tmp_path: Path, lazysif: MakeMount, tool: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    tool("apptainer")
    read_s = 20.0
    image = readers.busybox_image(tmp_path, "gzip").read_bytes()
    bulk = {f"/bulk{i}.img": bytes([i]) * BULK for i in range(4)}
    with origin_of({"/job.sif": image, **bulk}) as (origin, stalling):
        mount = lazysif(config=configure(tmp_path / "c.toml", origin.url, read_s=read_s), log_level="info")
        job = mount.path / "bio/job.sif"
        assert job.read_bytes() == image
        readers.exec_as_root(job, "true")
        os.listdir(mount.path / "bio")
        stuck = Readers([mount.path / "bio" / name[1:] for name in bulk], READERS)
        stalling.on.set()
        drop_pages(job)
        stuck.start()
        wait_until(lambda: mount.status()["requests"]["waiting_reads"] >= READERS, "the readers do not wait")
        time.sleep(2.5)  # names and listings are out of date now: they would be asked for again
        socket = next(mount.runtime_dir.glob("*.sock"))
        figures = {
            "ls": timed(lambda: os.listdir(mount.path / "bio")),
            "ls -l": timed(lambda: [entry.stat() for entry in os.scandir(mount.path / "bio")]),
            "stat": timed(lambda: os.stat(job)),
            "status": timed(mount.status),
            "metrics": timed(lambda: fetch(socket, "/metrics")),
            "read of what is cached": timed(job.read_bytes),
            "apptainer exec": timed(lambda: readers.exec_as_root(job, "true")),
        }
        waiting = mount.status()["requests"]
        stuck.join()
        with capsys.disabled():
            print("", *(f"{what}: {seconds:.2f} s" for what, seconds in figures.items()), sep="\n  ")
            print(f"  slowest reader: {max(s for s, _ in stuck.results):.2f} s of {read_s:g}, {waiting}")
        assert waiting["waiting_reads"] >= READERS
        assert waiting["oldest_s"] < read_s
        assert max(figures.values()) < LIMIT_S, figures
        assert {result for _, result in stuck.results} <= {"ETIMEDOUT", "EIO"}
        # the kernel asks a page that was read ahead once more by itself
        assert max(seconds for seconds, _ in stuck.results) < read_s + LIMIT_S
        wait_until(lambda: mount.status()["requests"]["waiting_reads"] == 0, "reads are left in hand")
        (remote,) = mount.status()["remotes"]
        assert remote["offline_since"]
        assert origin.url in remote["last_error"]
        assert "in hand for" in mount.log()
        wait_until(lambda: not loop_devices_over(mount.path), "Apptainer's loop device is still there")


def loop_devices_over(root: Path) -> list[Path]:
    """The kernel lets go of them a moment after the job."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [file for file in files if file.exists() and file.read_text().startswith(f"{root}/")]


def drop_pages(path: Path) -> None:
    """The kernel's pages of a file go, so that its next reader asks the daemon."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def test_hung_names_cost_a_good_neighbour_little(
    tmp_path: Path, lazysif: MakeMount, capsys: pytest.CaptureFixture[str]
) -> None:
    hung = [f"hung{i}.sif" for i in range(6)]
    lookup_s = 4.0
    with origin_of({"/good.sif": b"good", **{f"/{name}": b"hung" for name in hung}}) as (origin, stalling):
        stalling.names = {f"/{name}" for name in hung}
        stalling.on.set()
        config = configure(tmp_path / "c.toml", origin.url, read_s=8.0, lookup_s=lookup_s, stall_s=2.0)
        mount = lazysif(config=config)
        os.stat(mount.path / "bio")  # not listed: then the kernel asks for one name after the other
        results: list[str] = []

        def ask(name: str) -> None:
            try:
                os.stat(mount.path / "bio" / name)
            except OSError as error:
                results.append(errno.errorcode[error.errno or 0])

        askers = [threading.Thread(target=ask, args=(name,)) for name in hung]
        began = time.monotonic()
        for asker in askers:
            asker.start()
        wait_until(lambda: any("hung" in e.path for e in origin.log), "nobody asks")
        time.sleep(0.3)  # the others stand in the kernel's queue now
        assert (mount.path / "bio/good.sif").read_bytes() == b"good"
        waited_s = time.monotonic() - began
        for asker in askers:
            asker.join()
        with capsys.disabled():
            print(f"\n  good name after {waited_s:.2f} s beside six that hang for {lookup_s:g} s each")
        assert results == ["ETIMEDOUT"] * 6
        assert waited_s < lookup_s + 5 * 1.0 + LIMIT_S


def test_an_origin_that_dies_and_comes_back(tmp_path: Path, lazysif: MakeMount) -> None:
    data = os.urandom(BULK // 4)
    files = {"/a.img": data, "/b.img": data[::-1]}
    read_s = 20.0
    first = RawOrigin(files)
    with first:
        port = first.port
        mount = lazysif(config=configure(tmp_path / "c.toml", first.url, read_s=read_s), log_level="info")
        a, b = mount.path / "bio/a.img", mount.path / "bio/b.img"
        with a.open("rb") as opened:
            assert opened.read(4 * BLOCK) == data[: 4 * BLOCK]
        os.stat(b)
    drop_pages(a)
    stuck = Readers([a, b], 40)
    try:
        stuck.start()
        wait_until(lambda: bool(mount.status()["remotes"][0]["offline_since"]), "it is not offline")
        time.sleep(2.5)  # names are out of date
        began = time.monotonic()
        with a.open("rb") as opened:
            assert opened.read(4 * BLOCK) == data[: 4 * BLOCK]
        assert time.monotonic() - began < LIMIT_S
        assert "no connection" in mount.status()["remotes"][0]["last_error"]
    finally:
        second = RawOrigin(files, port=port)
        # the same versions as before
        second.__enter__()
        stuck.join()
    try:
        assert {result for _, result in stuck.results} == {4096}
        status = mount.status()
        assert status["remotes"][0]["offline_since"] is None
        assert len(second.log) <= 150
        assert "answers again" in mount.log()
    finally:
        second.close()
