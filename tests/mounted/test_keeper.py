"""The keeper: jobs survive the daemon's death and its upgrade, and where nothing helps they get errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.nginx import Nginx
from lazysif.cli.mount import keeper_order, start_keeper
from lazysif.config.load import config_for_source, with_overrides
from tests.support import readers
from tests.support.faults import StallBeforeHead
from tests.support.images import BuiltImage
from tests.support.mount import Mount, is_alive, wait_until
from tests.support.raw_origin import RawOrigin

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]


class Readers:
    """Threads that read random pieces of a mounted image all the time, around the page cache, and compare them."""

    def __init__(self, path: Path, data: bytes, count: int = 4) -> None:
        self.pauses_s: list[float] = []
        self.wrong: list[str] = []
        self._path, self._data = path, data
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        fd = os.open(self._path, os.O_RDONLY)
        try:
            while not self._stop.is_set():
                offset = chance.randrange(len(self._data))
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                began_s = time.monotonic()
                got = os.pread(fd, 65536, offset)
                self.pauses_s.append(time.monotonic() - began_s)
                if got != self._data[offset : offset + 65536]:
                    self.wrong.append(f"{len(got)} bytes at {offset}")
        except OSError as error:
            self.wrong.append(str(error))
        finally:
            os.close(fd)


@pytest.fixture
def served(nginx: Nginx, small_image: BuiltImage, lazysif: MakeMount) -> Mount:
    (nginx.root / "x.sif").symlink_to(small_image.path)
    return lazysif(nginx.url)


def kill_daemon(mount: Mount) -> None:
    """kill -9, and wait until the next one answers."""
    old = mount.pid
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: another_answers(mount, old), "no other daemon answers")
    mount.adopt()


def another_answers(mount: Mount, old: int) -> bool:
    return mount.status_or_none().get("pid", old) != old


def test_readers_survive_kills_and_upgrades(served: Mount, small_image: BuiltImage) -> None:
    with Readers(served.path / "x.sif", small_image.data) as reading:
        for _ in range(8):
            time.sleep(random.uniform(0.4, 1.0))
            kill_daemon(served)
        for _ in range(2):
            served.run("upgrade", served.path)
            served.adopt()
    assert reading.wrong == []
    assert len(reading.pauses_s) > 1000
    assert max(reading.pauses_s) < 5
    assert served.status()["restarts"] == 10
    assert "fetch failed" not in served.log()


@pytest.mark.parametrize("attach", [readers.hashes_by_loop, readers.hashes_by_squashfuse])
def test_a_mounted_image_survives_kills(
    served: Mount, small_image: BuiltImage, attach: Callable[[Path], readers.Hashes]
) -> None:
    expected = attach(small_image.path)
    with killing(served):
        deadline_s = time.monotonic() + 60
        while served.status_or_none().get("restarts", 0) < 4:
            assert time.monotonic() < deadline_s
            assert attach(served.path / "x.sif") == expected


@contextmanager
def killing(mount: Mount) -> Iterator[None]:
    """Kill the daemon again and again meanwhile, at random moments."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(random.uniform(0.4, 1.0)):
            kill_daemon(mount)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_frozen_daemon_is_replaced(served: Mount, small_image: BuiltImage) -> None:
    old = served.pid
    os.kill(old, signal.SIGSTOP)
    began_s = time.monotonic()
    with (served.path / "x.sif").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(small_image.data).digest()
    assert time.monotonic() - began_s < 25
    assert served.adopt().pid != old
    assert "said nothing" in served.log()


def test_a_read_keeps_its_deadline_when_the_daemon_is_replaced(tmp_path: Path, lazysif: MakeMount) -> None:
    """Regression: the next daemon gave what it was asked again a whole `read_timeout`, and the one after it, too."""
    data = random.Random(1).randbytes(1 << 20)
    stalled = threading.Event()
    with RawOrigin(
        {"/x.img": data}, decide=lambda _: StallBeforeHead() if stalled.is_set() else None
    ) as origin:
        config = tmp_path / "c.toml"
        config.write_text(
            f'[limits]\nread_timeout = 10\n[remote.a]\nkind = "http"\nurl = "{origin.url}"\nstall_timeout = 30\n'
        )
        mount = lazysif(config=config, log_level="info")
        fd = os.open(mount.path / "a/x.img", os.O_RDONLY)
        ended: list[int | None] = []

        def read() -> None:
            try:
                os.pread(fd, 4096, 900_000)
            except OSError as error:
                ended.append(error.errno)

        stalled.set()
        reader = threading.Thread(target=read)
        reader.start()
        try:
            wait_until(lambda: mount.status()["requests"]["oldest_s"] > 2.5, "the reader does not wait")
            kill_daemon(mount)
            wait_until(lambda: mount.status()["requests"]["waiting_reads"] > 0, "nothing is asked again")
            status = mount.status()
            assert status["requests"]["oldest_s"] > status["uptime_s"] + 2, "it is older than its daemon"
        finally:
            reader.join()
            os.close(fd)
        assert ended == [errno.ETIMEDOUT]


def test_umount_ends_keeper_and_daemon_whoever_does_it(served: Mount) -> None:
    subprocess.run(["umount", "-i", str(served.path)], check=True)
    served.check_gone()


def test_a_daemon_told_to_end_while_it_ends_writes_its_last_blocks(
    served: Mount, small_image: BuiltImage
) -> None:
    """Regression: the keeper's signal, had it come a moment late, crashed the daemon before it had written them."""
    assert (served.path / "x.sif").read_bytes() == small_image.data
    subprocess.run(["umount", "-i", str(served.path)], check=True)
    while is_alive(served.pid):
        with suppress(ProcessLookupError):
            os.kill(served.pid, signal.SIGTERM)
        time.sleep(0.001)
    served.check_gone()
    assert "ending on signal" in served.log(), "no signal came in time"
    assert "ended with exit code" not in served.log()


def test_the_end_of_the_keeper_is_the_end_of_the_mount(served: Mount) -> None:
    os.kill(served.keeper_pid, signal.SIGTERM)
    served.check_gone()


def test_a_keeper_that_is_killed_leaves_a_daemon_that_serves(served: Mount, small_image: BuiltImage) -> None:
    os.kill(served.keeper_pid, signal.SIGKILL)
    assert (served.path / "x.sif").read_bytes() == small_image.data
    served.umount()


def test_an_upgrade_that_cannot_start_leaves_the_old_daemon(
    served: Mount, small_image: BuiltImage, tmp_path: Path
) -> None:
    (order,) = [*served.runtime_dir.glob("*.sock")]
    order.with_suffix(".upgrade").write_text(
        json.dumps({"command": [sys.executable, "-c", "raise SystemExit(1)"]})
    )
    os.kill(served.keeper_pid, signal.SIGHUP)
    wait_until(lambda: "the old one goes on" in served.log(), "the keeper says nothing")
    assert served.status()["pid"] == served.pid
    assert (served.path / "x.sif").read_bytes() == small_image.data


POISONED = """
import os, signal, socket, sys
if not os.path.exists(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-m", "lazysif.serve", *sys.argv[2:]])
life = socket.socket(fileno=int(sys.argv[5]))
life.send(b"prepared")
life.recv(65536)
life.send(b"serving")
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A daemon that dies as soon as it serves, as one does that is asked again what killed its predecessor."""


def test_daemons_that_die_at_once_end_in_errors_and_not_in_a_hang(
    served: Mount, small_image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The brake."""
    poison = tmp_path / "poison"
    keeper = start_keeper_of(served, monkeypatch, command=[sys.executable, "-c", POISONED, str(poison)])
    served.adopt()
    fd = os.open(served.path / "x.sif", os.O_RDONLY)
    try:
        poison.touch()
        os.kill(served.pid, signal.SIGKILL)
        with pytest.raises(OSError, match=r"not connected|aborted"):
            read_for_ever(fd, len(small_image.data) // 2)
    finally:
        with suppress(OSError):
            os.close(fd)
    assert keeper.wait(10) == 0
    served.check_gone()
    assert "is given up" in served.log()


def start_keeper_of(
    served: Mount, monkeypatch: pytest.MonkeyPatch, command: Sequence[str] = (), **order: object
) -> subprocess.Popen[bytes]:
    """Mount the same anew by a keeper with another order; `command` stands for the daemon's, with its arguments."""
    served.umount()
    config = with_overrides(
        config_for_source(str(served.source)),
        {"cache.dir": str(served.cache_dir), "state.dir": str(served.state_dir), "log.level": "debug"},
    )
    changed = {**keeper_order(config, str(served.path), foreground=False), **order}
    if command:
        changed["command"] = [*command, str(served.path)]
    monkeypatch.setenv("LAZYSIF_RUNTIME_DIR", str(served.runtime_dir))
    return start_keeper(changed)


def read_for_ever(fd: int, offset: int) -> None:
    while True:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(fd, 4096, offset)


UNDEAD = """
import os, socket, struct, sys, threading
if os.path.exists(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-m", "lazysif.serve", *sys.argv[2:]])
mountpoint, fuse, init, life = sys.argv[2], *map(int, sys.argv[3:])
life = socket.socket(fileno=life)
life.send(b"prepared")
life.recv(65536)
unique = struct.unpack_from("<IIQ", os.read(init, 1 << 20))[2]
flags = struct.pack("<IIIIHHI", 7, 31, 0, 0, 12, 9, 65536) + bytes(40)
os.write(fuse, struct.pack("<IiQ", 16 + len(flags), 0, unique) + flags)
threading.Thread(target=os.statvfs, args=[mountpoint]).start()
os.read(fuse, 1 << 20)
life.send(b"serving")
threading.Event().wait()
"""
"""A daemon that has read a request of its own and does not answer it: nothing kills it until somebody does."""


def test_a_daemon_that_cannot_die_is_not_waited_for(
    served: Mount, small_image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a daemon killed while it asked for its own mount kept the keeper waiting for ever, and all jobs."""
    well = tmp_path / "well"
    keeper = start_keeper_of(served, monkeypatch, command=[sys.executable, "-c", UNDEAD, str(well)])
    (undead,) = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    well.touch()
    keeper.send_signal(signal.SIGHUP)
    wait_until(lambda: bool(served.status_or_none()), "no daemon takes over")
    assert (served.path / "x.sif").read_bytes() == small_image.data
    assert "does not end" in served.log()
    wait_until(lambda: not is_alive(int(undead)), "it is answered now, and can end")
    served.adopt().umount()
    assert keeper.wait(10) == 0


def test_without_resend_jobs_get_errors_and_new_opens_work(
    served: Mount, small_image: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.9: the mount is made anew, and who has an image open learns it at once."""
    keeper = start_keeper_of(served, monkeypatch, resend=False)
    served.adopt()
    fd = os.open(served.path / "x.sif", os.O_RDONLY)
    try:
        kill_daemon(served)
        wait_until(lambda: "mounted anew" in served.log(), "the keeper does not notice")
        with pytest.raises(OSError, match=r"not connected|aborted"):
            read_for_ever(fd, 0)
    finally:
        with suppress(OSError):  # close is a request, too, unless an earlier one was answered
            os.close(fd)
    wait_until(lambda: bool(served.status_or_none()), "the new mount does not answer")
    assert (served.path / "x.sif").read_bytes() == small_image.data
    served.adopt().umount()
    assert keeper.wait(10) == 0


def test_an_ordinary_user_has_a_keeper_too(small_image: BuiltImage, fuse: None) -> None:
    """Through fusermount3, which passes the descriptor."""
    user = readers.reader_user()
    if subprocess.run(["su", user, "-c", f"{sys.executable} -c 'import lazysif'"], check=False).returncode:
        pytest.skip("this interpreter is closed to other users")
    with RawOrigin({"/x.sif": small_image.data}) as origin:
        script = f"""
            set -e; work=$(mktemp -d); cd "$work"; trap 'fusermount3 -q -u -z m || :; rm -rf "$work"' EXIT
            mkdir m; export LAZYSIF_RUNTIME_DIR=$work/run PYTHONPATH={Path(__file__).parents[2]}
            l="{sys.executable} -m lazysif"
            $l mount {origin.url} m --cache-dir $work/c --state-dir $work/s
            sha256sum < m/x.sif; pkill -9 -u {user} -f 'lazysif[.]serve'; sha256sum < m/x.sif
            fusermount3 -u m; sleep 1; pgrep -f "keeper[.]py $work" || echo gone
        """
        done = subprocess.run(
            ["su", user, "-c", script], capture_output=True, text=True, check=False, timeout=60
        )
    digest = hashlib.sha256(small_image.data).hexdigest()
    assert done.stdout.split() == [digest, "-", digest, "-", "gone"], done.stderr
