"""`lazysif warm` on a real mount: what people see, and that it goes on when its daemon is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lazysif.cache.table_file import RECORD_BYTES, parse_name, read_records
from tests.support.mount import Mount, scrubbed_environment, wait_until
from tests.support.raw_origin import Answer, RawOrigin, Request, Wire

pytestmark = pytest.mark.mounted

BLOCK = 128 << 10
DATA = random.Random(21).randbytes(160 * BLOCK + 77)
HALF = 80 * BLOCK


class Gated:
    """Bytes from the middle of the file on are held back until the gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def decide(self, request: Request) -> Gated | None:
        start = request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        return None if self.gate.is_set() or int(start) < HALF else self

    def play(self, wire: Wire) -> None:
        wire.wait(None, self.gate)
        answer: Answer = wire.right()
        wire.send(answer)


def blocks_on_disk(mount: Mount) -> int:
    """Blocks whose digest the next daemon will know: tables are written every two seconds."""
    for path in (mount.cache_dir / "tables-v1").iterdir():
        named = parse_name(path.name)
        records = read_records(path, *named) if named is not None else None
        if records:
            return sum(any(records[i : i + RECORD_BYTES]) for i in range(0, len(records), RECORD_BYTES))
    return 0


def asked_bytes(origin: RawOrigin) -> int:
    return sum(entry.body_bytes for entry in origin.requests("/a.sif"))


def test_warm_goes_on_when_its_daemon_is_killed(lazysif: Callable[..., Mount]) -> None:
    gated = Gated()
    with RawOrigin({"/a.sif": DATA}, decide=gated.decide) as origin:
        mount = lazysif(origin.url)
        command = [sys.executable, "-m", "lazysif", "warm", "--wait", str(mount.path / "a.sif")]
        environment = scrubbed_environment(LAZYSIF_RUNTIME_DIR=str(mount.runtime_dir))
        waiting = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # what lies before the gate is on disk; what lies behind it is asked for and does not come
        wait_until(lambda: blocks_on_disk(mount) >= 80, "nothing was cached")
        wait_until(
            lambda: any((entry.range or (0, 0))[0] >= HALF for entry in origin.log),
            "the gate was not reached",
        )
        killed = mount.pid
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: mount.status_or_none().get("pid", killed) != killed, "no daemon came after it")
        mount.adopt()
        gated.gate.set()
        out, err = waiting.communicate(timeout=30)
        assert (waiting.returncode, err) == (0, "")
        assert "are cached" in out
        assert asked_bytes(origin) < len(DATA) + 24 * BLOCK, "what was on disk is not fetched again"
        before = len(origin.log)
        origin.drop_connections()
        assert (mount.path / "a.sif").read_bytes() == DATA
        assert [entry for entry in origin.log[before:] if entry.body_bytes > BLOCK] == []


def test_warm_says_what_it_cannot_do_in_one_line(lazysif: Callable[..., Mount], tmp_path: Path) -> None:
    with RawOrigin({"/a.sif": DATA[:BLOCK], "/dir/b.sif": DATA}) as origin:
        mount = lazysif(origin.url)
        for image, code, says in (
            (mount.path / "none.sif", 1, "lazysif: none.sif: the origin does not have it (404)"),
            (mount.path / "dir", 1, "lazysif: dir: a directory, and no image"),
            (mount.path, 2, "is a mountpoint, and no image"),
            (tmp_path / "x.sif", 3, "no lazysif that answers is mounted there"),
            ("shub://a/b", 2, "no remote of this mount serves it"),
        ):
            for wait in ([], ["--wait"]):
                done = mount.run("warm", *wait, image, check=False)
                assert (done.returncode, done.stdout) == (code, "")
                assert says in done.stderr
                assert done.stderr.count("\n") == 1
        assert mount.run("warm", "--wait", "--trace", mount.path / "a.sif", check=False).returncode == 1
        assert mount.run("warm", "--rate", "fast", mount.path / "a.sif", check=False).returncode == 2
        assert "is being warmed" not in mount.log()


def test_warm_without_wait_returns_and_cancel_ends_it(lazysif: Callable[..., Mount]) -> None:
    gated = Gated()
    with RawOrigin({"/a.sif": DATA}, decide=gated.decide) as origin:
        mount = lazysif(origin.url)
        done = mount.run("warm", mount.path / "a.sif")
        assert "lazysif warm --wait follows it" in done.stdout
        mount.run("warm", "--cancel", mount.path / "a.sif")
        done = mount.run("warm", "--cancel", mount.path / "a.sif", check=False)
        assert (done.returncode, "is not being warmed" in done.stderr) == (2, True)
        gated.gate.set()
