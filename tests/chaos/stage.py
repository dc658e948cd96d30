"""What a run plays on: an origin that can misbehave, disks that can be spoiled, one mount, and readers.

Everything lives in mount and process namespaces of its own (`tests.chaos.__main__`), so nothing survives the run,
whatever happens, and the host's /etc/hosts can be replaced.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.images import partition_of
from lazysif.control.address import socket_path
from lazysif.control.client import fetch_status
from tests.chaos.referee import Referee
from tests.chaos.worker import NAMES, Order, Outcome, hash_tree
from tests.support.cache_damage import command
from tests.support.mount import REPOSITORY, Mount, scrubbed_environment, wait_until
from tests.support.raw_origin import RawOrigin
from tests.support.readers import busybox_image

HOST = "images.lazysif.test"
READ_TIMEOUT_S, LOOKUP_TIMEOUT_S, STALL_TIMEOUT_S, REVALIDATE_S = 8.0, 6.0, 2.0, 1.0
CACHE_BYTES = 6 << 20
"""Less than half of what is read: blocks come and go all the time, and the origin is needed all the time."""
DISK_BYTES = 48 << 20
MOVING_BYTES = 6 << 20
READERS = ("direct1", "direct2", "direct3", "loop", "squashfuse", "apptainer")

CONFIGURATION = """\
[cache]
size = "{cache_bytes}"
memory = "1MiB"
[log]
file = "{log}"
[limits]
read_timeout = {read}
lookup_timeout = {lookup}
[remote.site]
kind = "http"
url = "{url}"
revalidate = {revalidate}
negative = 0.5
stall_timeout = {stall}
"""


class Stage:
    """One mount and its world; a context manager. `seed` makes the images and the readers' choices."""

    def __init__(self, seed: int, referee: Referee) -> None:
        self.seed = seed
        self.referee = referee
        self.origin = RawOrigin()
        self.published_s: list[tuple[float, int]] = []
        """When each version of moving.sif came, and its size."""
        self._disks = 0
        self._stack = ExitStack()
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._listeners: list[threading.Thread] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.root = Path(tempfile.mkdtemp(prefix="lazysif-chaos-"))
            stack.callback(shutil.rmtree, self.root, ignore_errors=True)
            for name in ("local", "work", "images"):
                (self.root / name).mkdir()
            self._be_the_resolver(stack)
            stack.enter_context(self.origin)
            self._make_images()
            self._make_disks(stack)
            self.mount = self._make_mount()
            stack.callback(self.mount.force_gone)
            os.environ["LAZYSIF_RUNTIME_DIR"] = str(self.mount.runtime_dir)
            self.mount.start()
            stack.callback(self.stop_readers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- its parts

    def _be_the_resolver(self, stack: ExitStack) -> None:
        """Names come from files of ours, and the only name server answers nobody."""
        self.hosts = self.root / "hosts"
        resolver = self.root / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.know_the_host(True)
        for ours, theirs in ((self.hosts, "/etc/hosts"), (resolver, "/etc/resolv.conf")):
            command("mount", "--bind", ours, theirs)
            stack.callback(subprocess.run, ["umount", theirs], check=False, capture_output=True)

    def know_the_host(self, known: bool) -> None:
        self.hosts.write_text("127.0.0.1 localhost\n" + (f"127.0.0.1 {HOST}\n" if known else ""))

    def _make_images(self) -> None:
        image = busybox_image(self.root / "images", "gzip")
        data = image.read_bytes()
        (self.root / "local" / str(len(data))).write_bytes(data)
        self.hashes = hash_tree(str(self.root / "images/gzip-tree"))
        self.offset = partition_of(image).offset
        self.origin.put(f"/{NAMES[0]}", data)
        self.publish()

    def publish(self) -> None:
        """Replace moving.sif by its next version, which differs in size and in every byte."""
        number = len(self.published_s)
        data = random.Random(f"{self.seed} {number}").randbytes(MOVING_BYTES + 1000 * number)
        (self.root / "local" / str(len(data))).write_bytes(data)
        self.origin.put(f"/{NAMES[1]}", data)
        self.published_s.append((time.monotonic(), len(data)))

    def _make_disks(self, stack: ExitStack) -> None:
        """The cache on an ext4 of its own, the state on a tmpfs."""
        (self.root / "cache").mkdir()
        self.put_in_a_disk()
        (self.root / "state").mkdir()
        command("mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", self.root / "state")
        for name in ("cache", "state"):
            stack.callback(
                subprocess.run, ["umount", "-l", str(self.root / name)], check=False, capture_output=True
            )

    def put_in_a_disk(self) -> None:
        """A new, empty one for the cache."""
        self._disks += 1
        disk = self.root / f"disk-{self._disks}.img"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        command("mkfs.ext4", "-q", "-m", "0", disk)
        command("mount", "-o", "loop", disk, self.root / "cache")
        (self.root / "cache").chmod(0o700)

    def _make_mount(self) -> Mount:
        configuration = self.root / "lazysif.toml"
        configuration.write_text(
            CONFIGURATION.format(
                cache_bytes=CACHE_BYTES,
                log=self.root / "lazysif.log",
                url=f"http://{HOST}:{self.origin.port}",
                read=READ_TIMEOUT_S,
                lookup=LOOKUP_TIMEOUT_S,
                revalidate=REVALIDATE_S,
                stall=STALL_TIMEOUT_S,
            )
        )
        return Mount(self.root, config=configuration, log_level="info")

    # --- the daemon

    def status(self) -> dict[str, Any] | None:
        """None while no daemon answers."""
        try:
            return fetch_status(socket_path(str(self.mount.path)))
        except OSError:
            return None

    def pid(self) -> int:
        """Of the present daemon, when it answers. Raises: AssertionError: none does."""
        answer: dict[str, Any] | None = None

        def answers() -> bool:
            nonlocal answer
            answer = self.status()
            return answer is not None

        wait_until(answers, "no daemon answers")
        assert answer is not None
        return int(answer["pid"])

    def kill_daemon(self) -> float:
        """kill -9, and wait until another one answers; how long that took."""
        old = self.pid()
        began_s = time.monotonic()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: (self.status() or {}).get("pid", old) != old, "no other daemon answers")
        return time.monotonic() - began_s

    def upgrade(self) -> None:
        """Raises: CommandFailed."""
        self.mount.run("upgrade", self.mount.path)

    def disk_is_well(self, within_s: float = 40.0) -> bool:
        """Wait until the cache is in use, as it will be by itself."""
        deadline_s = time.monotonic() + within_s
        while ((self.status() or {}).get("cache") or {}).get("state") != "normal":
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.2)
        return True

    def log(self, start: int = 0) -> str:
        """The daemons' and the keeper's log from a position on, without rotated files."""
        with (self.root / "lazysif.log").open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")

    def log_bytes(self) -> int:
        return (self.root / "lazysif.log").stat().st_size

    # --- the readers

    def start_readers(self, names: tuple[str, ...] = READERS) -> None:
        chance = random.Random(self.seed)
        for name in names:
            order = Order(
                str(self.mount.path / "site"),
                str(self.root / "local"),
                str(self.root / "work"),
                chance.randrange(2**32),
                self.offset,
                self.hashes,
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
                env=scrubbed_environment(),
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
            listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
            listener.start()
            self._workers[name] = process
            self._listeners.append(listener)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.referee.saw(Outcome(**json.loads(line)))

    def stop_readers(self) -> list[str]:
        """End them in order; the names of those that had to be killed or failed."""
        for process in self._workers.values():
            assert process.stdin is not None
            process.stdin.close()
        bad = []
        for name, process in self._workers.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code:
                bad.append(f"reader {name} ended with {code}")
        for listener in self._listeners:
            listener.join(5)
        self._workers.clear()
        self._listeners.clear()
        return bad

    # --- leaks

    def left_over(self) -> list[str]:
        """After the readers' end: unmount, and say what is left of it all."""
        found = []
        try:
            self.mount.adopt()
            self.mount.umount()
        except AssertionError as error:
            found.append(str(error))
        attached = subprocess.run(
            ["losetup", "-l", "-n", "-O", "NAME,BACK-FILE"], capture_output=True, text=True
        )
        mine = [line for line in attached.stdout.splitlines() if str(self.root) in line]
        found += [f"loop device {line}" for line in mine if "/disk-" not in line]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [f"mount {path}" for path in re.findall(rf"({self.root}/(?:mnt|work)\S*)", mounts)]
        found += [f"process {text}" for text in other_processes()]
        return found


def other_processes() -> list[str]:
    """All that live in our process namespace, but us and the first, which only reaps."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # it ended meanwhile
            if state not in "ZX":
                found.append(f"{entry.name}: {words[:120]}")
    return found


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    (pages,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(pages) * 1024
