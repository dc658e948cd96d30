"""One process that reads all the time, as jobs do, compares what it gets and says how each attempt ended.

    python -m tests.chaos.worker KIND < ORDER

ORDER is one line of JSON (`Order`); it ends when standard input does. Each line of its output is JSON: the fields of
`Outcome`. Reads that went well and fast are summed up a few times a second.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

BYTES, WRONG, FAILED = "bytes", "wrong", "failed"
SLOW_S = 0.02
"""Reads that take longer are told one by one."""
SUM_S = 0.25
NAMES = ("steady.sif", "moving.sif")
JOB_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """`local` has a file for each version of each image, named by its size: sizes tell versions apart."""

    mount: str
    local: str
    work: str
    seed: int
    offset: int
    hashes: dict[str, str]
    names: tuple[str, ...] = NAMES


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `result` is "bytes", an errno, "failed" (a command) or "wrong".

    `size_bytes` is that of the version which an open gave, or of the read; `count` is of reads summed up, `took_s`
    their longest.
    """

    kind: str
    began_s: float
    took_s: float
    what: str
    result: str
    name: str = ""
    detail: str = ""
    size_bytes: int = 0
    count: int = 1

    @property
    def ended_s(self) -> float:
        return self.began_s + self.took_s


class Teller:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sum: tuple[float, float, int] | None = None

    def tell(
        self, began_s: float, what: str, result: str, name: str = "", detail: str = "", size_bytes: int = 0
    ) -> None:
        took_s = time.monotonic() - began_s
        if what == "read" and result == BYTES and took_s < SLOW_S:
            first_s, longest_s, count = self._sum or (began_s, 0.0, 0)
            self._sum = first_s, max(longest_s, took_s), count + 1
            if began_s - first_s > SUM_S:
                self.flush()
            return
        self._say(Outcome(self._kind, began_s, took_s, what, result, name, detail[-300:], size_bytes))

    def flush(self) -> None:
        if self._sum:
            began_s, longest_s, count = self._sum
            self._sum = None
            self._say(Outcome(self._kind, began_s, longest_s, "read", BYTES, count=count))

    def _say(self, outcome: Outcome) -> None:
        print(json.dumps(asdict(outcome)), flush=True)


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def read_at_random(order: Order, stop: threading.Event, teller: Teller) -> None:
    """Random ranges around the page cache; each open is of whatever version the name means then."""
    chance = random.Random(order.seed)
    versions: dict[int, mmap.mmap] = {}
    while not stop.is_set():
        name = chance.choice(order.names)
        began_s = time.monotonic()
        try:
            fd = os.open(f"{order.mount}/{name}", os.O_RDONLY)
        except OSError as error:
            teller.tell(began_s, "open", errno_name(error), name)
            stop.wait(0.05)
            continue
        try:
            size = os.fstat(fd).st_size
            local = Path(order.local, str(size))
            if not local.exists():
                teller.tell(began_s, "open", WRONG, name, f"there is no version of {size} bytes", size)
                continue
            if size not in versions:
                with local.open("rb") as content:
                    versions[size] = mmap.mmap(content.fileno(), 0, prot=mmap.PROT_READ)
            teller.tell(began_s, "open", BYTES, name, size_bytes=size)
            _read_one(fd, versions[size], name, chance, stop, teller)
        finally:
            os.close(fd)
    teller.flush()


def _read_one(
    fd: int, data: mmap.mmap, name: str, chance: random.Random, stop: threading.Event, teller: Teller
) -> None:
    for _ in range(chance.randint(10, 60)):
        if stop.is_set():
            return
        start = chance.randrange(len(data))
        wanted = min(chance.choice((512, 4096, 65536, 200_000)), len(data) - start)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got, began_s = b"", time.monotonic()
        try:
            # the kernel gives what lies before a page that failed; the next call has the error
            while len(got) < wanted:
                began_s = time.monotonic()
                piece = os.pread(fd, wanted - len(got), start + len(got))
                if not piece:
                    break
                got += piece
        except OSError as error:
            teller.tell(began_s, "read", errno_name(error), name, f"at {start + len(got)}", wanted)
            stop.wait(0.05)
            if error.errno == errno.ESTALE:
                return
        else:
            right = got == data[start : start + wanted]
            detail = "" if right else f"{len(got)} at {start}"
            teller.tell(began_s, "read", BYTES if right else WRONG, name, detail, wanted)
        time.sleep(chance.uniform(0.001, 0.004))


def hash_tree(root: str) -> dict[str, str]:
    """SHA-256 of each regular file. Raises: OSError, also where a directory cannot be listed."""

    def refuse(error: OSError) -> None:
        raise error

    found = {}
    for directory, _, files in os.walk(root, onerror=refuse):
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                with open(path, "rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                found[os.path.relpath(path, root)] = digest
    return found


@contextmanager
def attached(command: list[str], work: str) -> Iterator[str]:
    """Raises: CommandFailed."""
    with tempfile.TemporaryDirectory(prefix="root-", dir=work) as directory:
        _run([*command, directory])
        try:
            yield directory
        finally:
            _detach(directory)


def _detach(directory: str) -> None:
    """squashfuse may need a moment to let go."""
    for lazy in ([], [], [], ["-l"]):
        if subprocess.run(["umount", *lazy, directory], capture_output=True, check=False).returncode == 0:
            break
        time.sleep(0.3)


class CommandFailed(Exception):
    pass


def _run(command: list[str]) -> str:
    """Raises: CommandFailed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=JOB_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"nothing within {JOB_S:.0f} s") from error
    if done.returncode:
        raise CommandFailed(f"exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def hash_through(
    attach: Callable[[Order, str], list[str]],
) -> Callable[[Order, threading.Event, Teller], None]:
    """Attach the image, hash all files in it, detach, again and again."""

    def work(order: Order, stop: threading.Event, teller: Teller) -> None:
        image = f"{order.mount}/{NAMES[0]}"
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                forget_pages(image)
                with attached(attach(order, image), order.work) as root:
                    found = hash_tree(root)
                    right = found == order.hashes
                    other = sorted(path for path, digest in found.items() if order.hashes.get(path) != digest)
                    detail = "" if right else f"{len(found)} files, other: {other[:5]}"
                    # the kernel's squashfs lists a directory that it cannot read as one that ends there
                    bad = WRONG if other else FAILED
                    teller.tell(began_s, "round", BYTES if right else bad, NAMES[0], detail)
            except CommandFailed as error:
                teller.tell(began_s, "round", FAILED, NAMES[0], str(error))
            except OSError as error:
                teller.tell(began_s, "round", errno_name(error), NAMES[0], str(error))
            stop.wait(0.2)

    return work


def forget_pages(image: str) -> None:
    """Raises: OSError."""
    fd = os.open(image, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def by_loop(order: Order, image: str) -> list[str]:
    """A loop device of its own: mount(8) refuses a second one of a file, and Apptainer may have the first."""
    script = """
        device=$(losetup --find --show --read-only --offset "$1" "$2") || exit
        mount -t squashfs -o ro "$device" "$3"
        code=$?
        losetup --detach "$device"  # when nobody uses it any more
        exit $code
    """
    return ["sh", "-c", script, "sh", str(order.offset), image]


def by_squashfuse(order: Order, image: str) -> list[str]:
    return ["squashfuse_ll", "-o", f"offset={order.offset}", image]


def start_jobs(order: Order, stop: threading.Event, teller: Teller) -> None:
    """`apptainer exec`: a shell that hashes some files in the container."""
    image = f"{order.mount}/{NAMES[0]}"
    chance = random.Random(order.seed)
    while not stop.is_set():
        files = chance.sample(sorted(path for path in order.hashes if path.startswith("lib/")), 20)
        began_s = time.monotonic()
        command = ["apptainer", "exec", "--no-privs", "--contain", image]
        try:
            said = _run([*command, "sha256sum", *(f"/{path}" for path in files)])
        except CommandFailed as error:
            teller.tell(began_s, "start", FAILED, NAMES[0], str(error))
        else:
            right = said.split()[::2] == [order.hashes[path] for path in files]
            teller.tell(began_s, "start", BYTES if right else WRONG, NAMES[0], "" if right else said)
        stop.wait(0.4)


KINDS: dict[str, Callable[[Order, threading.Event, Teller], None]] = {
    "direct": read_at_random,
    "loop": hash_through(by_loop),
    "squashfuse": hash_through(by_squashfuse),
    "apptainer": start_jobs,
}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
    order = Order(**json.loads(sys.stdin.readline()))
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    kind = sys.argv[1]
    KINDS[kind.rstrip("0123456789")](order, stop, Teller(kind))


if __name__ == "__main__":
    main()
