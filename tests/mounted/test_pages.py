"""What the kernel is given ahead of a job: its own bytes, in time, and never at the price of a stuck daemon."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.nginx import Nginx
from lazysif.fuse.pages import Pages
from lazysif.fuse.read_pages import PAUSE_S, Files
from lazysif.model import InodeNumber
from lazysif.traces.store import TraceStore
from tests.support.faults import StallBeforeHead
from tests.support.mount import Mount, children_of, wait_until
from tests.support.raw_origin import RawOrigin

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]
BLOCK = 128 << 10
COUNT = 400
DATA = random.Random(21).randbytes(COUNT * BLOCK - 5000)
PATH = [0, *random.Random(22).sample(range(1, COUNT - 1), 300)]


def read_as_a_job(file: Path, seed: int, read: Callable[[int, int, int], bytes] = os.pread) -> None:
    """Pieces of each block of the path, in its order, each compared."""
    rng = random.Random(seed)
    with file.open("rb", buffering=0) as image:
        for block in PATH:
            offset = block * BLOCK + rng.choice([0, 4096, 32768, 100_000])
            size = rng.choice([4096, 16384, 60_000, BLOCK])
            assert read(image.fileno(), size, offset) == DATA[offset : offset + size]


def read_on(descriptor: int, size: int, offset: int) -> bytes:
    """As os.pread; where an error cut that short, the error, which comes with the next byte (read(2))."""
    got = os.pread(descriptor, size, offset)
    return got + os.pread(descriptor, size - len(got), offset + len(got)) if len(got) < size else got


def learned(nginx: Nginx, lazysif: MakeMount, directory: Path) -> Mount:
    """A mount anew, whose daemon knows what starts of its image read and has all of that on disk."""
    (nginx.root / "image.sif").write_bytes(DATA)
    config = directory / "c.toml"
    config.write_text(f'[remote.a]\nkind = "http"\nurl = "{nginx.url}"\n')
    mount = lazysif(config=config)
    read_as_a_job(mount.path / "a/image.sif", 1)
    mount.umount()
    assert len(list(TraceStore(mount.state_dir).traces())) == 1
    return mount.start()


@contextmanager
def begun(mount: Mount) -> Iterator[Path]:
    """The image, opened by a start that the trace knows, once the kernel is being given of it."""
    image = mount.path / "a/image.sif"
    with image.open("rb") as opened:
        opened.read(100)
        wait_until(lambda: mount.counters()["given_blocks"] > 8, "nothing is given")
        yield image


def test_most_of_a_known_start_is_read_without_the_daemon(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    mount = learned(nginx, lazysif, tmp_path)
    with begun(mount) as image:
        read_as_a_job(image, 2)
    counters = mount.counters()
    assert counters["given_blocks"] > len(PATH) / 2
    assert counters["read_requests"] < 2 * len(PATH)
    mount.umount()
    (trace,) = TraceStore(mount.state_dir).traces()
    forgotten = set(PATH) - set(trace.paths[0].blocks)
    assert len(forgotten) <= 16, "what was not seen is not forgotten"
    with begun(mount.start()) as image:
        assert image.read_bytes() == DATA
        assert mount.counters()["errors"] == 0


def test_jobs_read_their_bytes_while_daemons_that_give_pages_are_killed(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    mount = learned(nginx, lazysif, tmp_path)
    failed: list[BaseException] = []

    def job(seed: int) -> None:
        try:
            read_as_a_job(mount.path / "a/image.sif", seed)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    for turn in range(4):
        jobs = [threading.Thread(target=job, args=(10 * turn + n,)) for n in range(3)]
        for each in jobs:
            each.start()
        time.sleep(0.02 * turn)
        os.kill(mount.adopt().pid, signal.SIGKILL)
        for each in jobs:
            each.join(60)
            assert not each.is_alive()
        wait_until(lambda: bool(mount.status_or_none()), "no daemon serves")
        with (mount.path / "a/image.sif").open("rb") as image:
            os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert failed == []
    mount.adopt()


def reader_of(mount: Mount) -> int:
    """The process that fills the page cache of a mount."""
    ours = [
        pid for pid in children_of(mount.pid) if b"read_pages.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return ours[0] if ours else 0


def has_open(pid: int, file: Path) -> bool:
    try:
        return any(os.readlink(link) == str(file) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_mount_is_not_busy_once_its_readers_have_gone(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    """While a file is open there umount(8) refuses; so nothing of ours stays open behind the last reader."""
    mount = learned(nginx, lazysif, tmp_path)
    with begun(mount) as image:
        wait_until(lambda: has_open(reader_of(mount), image), "nothing is read ahead")
    began_s = time.monotonic()
    wait_until(lambda: not has_open(reader_of(mount), image), "it stays open")
    assert time.monotonic() - began_s < PAUSE_S / 2, "a pause closed it, not the end of its last reader"
    for seed in range(10):
        read_as_a_job(image, seed)
        mount.umount()
        mount.start()


def test_nothing_is_read_ahead_of_a_reader_who_asks_for_what_no_trace_names(
    nginx: Nginx, lazysif: MakeMount
) -> None:
    (nginx.root / "x.img").write_bytes(DATA)
    mount = lazysif(nginx.url)
    assert (mount.path / "x.img").read_bytes() == DATA
    assert mount.counters()["given_blocks"] == 0


def test_a_mount_goes_on_without_the_process_that_reads_ahead(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    mount = learned(nginx, lazysif, tmp_path)
    os.kill(reader_of(mount), signal.SIGKILL)
    read_as_a_job(mount.path / "a/image.sif", 3)
    assert mount.counters()["errors"] == 0
    assert mount.log().count("nothing is read ahead into the page cache any more") == 1
    mount.umount()


def test_readers_get_an_error_when_all_processes_of_a_mount_are_killed_at_once(
    nginx: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    """Regression: what filled the page cache held the connection, so that the kernel did not see that it was dead."""
    mount = learned(nginx, lazysif, tmp_path)
    image = mount.path / "a/image.sif"
    ended: list[str] = []

    def job() -> None:
        try:
            read_as_a_job(image, 5, read_on)
            ended.append("read")
        except OSError as error:
            ended.append(errno.errorcode[error.errno or 0])

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for each in jobs:
        each.start()
    wait_until(lambda: mount.counters()["given_blocks"] > 8, "nothing is given")
    for pid in (mount.keeper_pid, mount.pid):
        os.kill(pid, signal.SIGKILL)
    for each in jobs:
        each.join(30)
        assert not each.is_alive(), "a reader hangs"
    assert set(ended) <= {"read", "ENOTCONN", "EIO", "ECONNABORTED"}
    subprocess.run(["umount", "-l", mount.path], check=True)
    mount.check_gone()


def test_names_that_change_under_it_are_left_alone(tmp_path: Path) -> None:
    """The process reads only the version that it was told of, and closes what it is told to close."""
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(DATA[:BLOCK])
    other.write_bytes(DATA[:BLOCK])
    number = file.stat().st_ino
    files = Files(str(tmp_path))
    files.read(number, b"other", 0, 4096)
    files.read(number, b"file", 0, 4096)  # not tried again for each piece
    assert not has_open(os.getpid(), file)
    assert not has_open(os.getpid(), other)
    files.close(number)
    files.read(number, b"file", BLOCK - 4096, 4096)
    assert has_open(os.getpid(), file)
    with pytest.raises(FileNotFoundError):
        files.read(77, b"missing", 0, 4096)
    files.read(77, b"missing", 0, 4096)
    files.close_all()
    assert not has_open(os.getpid(), file)


_PIDFD_GETFD = 438


def connection_of(mount: Mount) -> int:
    """A duplicate of the daemon's /dev/fuse."""
    of_daemon = next(
        int(link.name) for link in Path(f"/proc/{mount.pid}/fd").iterdir() if os.readlink(link) == "/dev/fuse"
    )
    pidfd = os.pidfd_open(mount.pid)
    try:
        fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, of_daemon, 0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        return int(fd)
    finally:
        os.close(pidfd)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a descriptor out of another process")
def test_pages_that_are_dropped_are_asked_for_again(nginx: Nginx, lazysif: MakeMount) -> None:
    (nginx.root / "x.img").write_bytes(DATA)
    mount = lazysif(nginx.url)
    connection = connection_of(mount)
    try:
        with (mount.path / "x.img").open("rb", buffering=0) as image:

            def read_requests_for(offset: int) -> int:
                before = mount.counters()["read_requests"]
                assert os.pread(image.fileno(), 4096, offset) == DATA[offset : offset + 4096]
                return mount.counters()["read_requests"] - before

            assert read_requests_for(20 * BLOCK) > 0
            assert read_requests_for(20 * BLOCK) == 0
            # one that nobody knows does not keep the others from being dropped
            Pages(str(mount.path), connection).drop(
                [InodeNumber(77), InodeNumber(os.fstat(image.fileno()).st_ino)]
            )
            assert read_requests_for(20 * BLOCK) > 0
    finally:
        os.close(connection)


def waiting_in_the_kernel() -> list[int]:
    """Processes that drop pages, and cannot be killed at this moment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"drop_pages.py" in (directory / "cmdline").read_bytes()
            if ours and ") D " in (directory / "stat").read_text():
                found.append(int(directory.name))
        except OSError:
            continue
    return found


DROPPER = """
import sys
from lazysif.fuse.pages import Pages
print("begun", flush=True)
Pages("/", int(sys.argv[1])).drop([int(sys.argv[2])])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a descriptor out of another process")
def test_who_drops_a_page_that_is_being_read_can_be_killed(tmp_path: Path, lazysif: MakeMount) -> None:
    """The kernel makes it wait, where no signal reaches it, for an answer that only the daemon can give.

    Regression: a thread of the daemon did so. A daemon that was stopped or killed then never came to its end, held
    its state directory, and the mount was given up.
    """
    data = random.Random(1).randbytes(1 << 20)
    stalled = threading.Event()
    got: list[bytes] = []
    with RawOrigin(
        {"/x.img": data}, decide=lambda _: StallBeforeHead() if stalled.is_set() else None
    ) as origin:
        config = tmp_path / "c.toml"
        config.write_text(f'[remote.a]\nkind = "http"\nurl = "{origin.url}"\nstall_timeout = 5\n')
        mount = lazysif(config=config)
        image = os.open(mount.path / "a/x.img", os.O_RDONLY)
        stalled.set()
        reader = threading.Thread(target=lambda: got.append(os.pread(image, 4096, 901_120)))
        reader.start()
        wait_until(lambda: mount.status()["requests"]["oldest_s"] > 0.2, "the reader does not wait")
        connection = connection_of(mount)
        told = [str(connection), str(os.fstat(image).st_ino)]
        dropper = subprocess.Popen(
            [sys.executable, "-c", DROPPER, *told], pass_fds=[connection], stdout=subprocess.PIPE
        )
        os.close(connection)
        try:
            assert dropper.stdout is not None
            assert dropper.stdout.readline() == b"begun\n"
            wait_until(lambda: bool(waiting_in_the_kernel()), "nobody waits for the page")
            began_s = time.monotonic()
            dropper.kill()
            dropper.wait(5)
            assert time.monotonic() - began_s < 2
            old = mount.pid
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: mount.status_or_none().get("pid", old) != old, "no daemon serves")
            assert waiting_in_the_kernel()
        finally:
            stalled.clear()
            dropper.kill()
            dropper.communicate()
            reader.join(60)
            os.close(image)
        assert got == [data[901_120:905_216]]
        wait_until(lambda: not waiting_in_the_kernel(), "it still waits")
        mount.adopt().umount()
