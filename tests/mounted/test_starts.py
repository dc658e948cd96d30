"""Starts of real jobs: twenty at once, again, after a remount, and while the image is replaced."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.nginx import Nginx
from tests.support.images import BuiltImage, Images
from tests.support.mount import Mount, scrubbed_environment
from tests.support.nginx import covered_bytes, overlaps

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]
JOB = ("python3", "-c", "import json, email.message, sqlite3; print(json.dumps(6 * 7))")


@pytest.fixture
def apptainer(tool: Callable[[str], str]) -> str:
    return tool("apptainer")


def start_job(image: Path) -> subprocess.CompletedProcess[str]:
    """One task of an array: `apptainer exec` of a Python job."""
    return subprocess.run(
        ["apptainer", "exec", "--no-privs", str(image), *JOB],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=scrubbed_environment(),
    )


def drop_page_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def publish(image: BuiltImage, nginx: Nginx, name: str) -> str:
    (nginx.root / name).symlink_to(image.path)
    return f"/{name}"


def test_a_herd_of_twenty_fetches_no_byte_twice(
    apptainer: str, nginx: Nginx, real_image: BuiltImage, lazysif: MakeMount
) -> None:
    uri = publish(real_image, nginx, "herd.sif")
    mount = lazysif(nginx.url)
    with ThreadPoolExecutor(20) as tasks:
        done = list(tasks.map(start_job, [mount.path / "herd.sif"] * 20))
    assert [(job.returncode, job.stdout) for job in done] == [(0, "42\n")] * 20, done[0].stderr
    log = nginx.requests(uri)
    assert overlaps(log, uri) == []
    assert {request.status for request in log} <= {206, 304}
    fetched = covered_bytes(log, uri)
    assert 0 < fetched < real_image.path.stat().st_size
    assert mount.counters()["fetched_bytes"] == fetched
    assert mount.counters()["errors"] == 0


def test_a_second_start_asks_the_origin_nothing(
    apptainer: str, nginx: Nginx, real_image: BuiltImage, lazysif: MakeMount
) -> None:
    publish(real_image, nginx, "again.sif")
    mount = lazysif(nginx.url)
    assert start_job(mount.path / "again.sif").stdout == "42\n"
    wait_until_quiet(nginx)
    nginx.clear_log()
    assert start_job(mount.path / "again.sif").stdout == "42\n"
    assert nginx.requests() == []
    drop_page_cache()
    assert start_job(mount.path / "again.sif").stdout == "42\n"
    assert nginx.requests() == []


def test_after_a_remount_nothing_is_asked_and_nothing_is_fetched(
    apptainer: str, nginx: Nginx, real_image: BuiltImage, lazysif: MakeMount
) -> None:
    uri = publish(real_image, nginx, "remount.sif")
    mount = lazysif(nginx.url)
    assert start_job(mount.path / "remount.sif").stdout == "42\n"
    wait_until_quiet(nginx)
    mount.umount()
    nginx.clear_log()
    mount.start()
    drop_page_cache()
    assert start_job(mount.path / "remount.sif").stdout == "42\n"
    assert not nginx.requests(uri), "within `revalidate` a name is believed, by the next daemon too"
    assert mount.counters()["fetched_bytes"] == 0


def wait_until_quiet(nginx: Nginx) -> None:
    """Until what is fetched behind the start (readahead, tables) has come."""
    deadline_s = time.monotonic() + 30
    seen = -1
    while (now := len(nginx.requests())) != seen:
        assert time.monotonic() < deadline_s
        seen = now
        time.sleep(0.3)


@pytest.mark.parametrize("compression", ["gzip"])
def test_a_changed_image_is_never_mixed(
    nginx: Nginx, images: Images, lazysif: MakeMount, compression: str
) -> None:
    """Whoever has the old one open gets its bytes or ESTALE; a new open gets the new one within `revalidate`."""
    old, new = images.small(compression, seed=1), images.small(compression, seed=2)
    target = nginx.root / "job.sif"
    replace(target, old)
    configuration = nginx.root.parent / "lazysif.toml"
    configuration.write_text(f'[remote.site]\nkind = "http"\nurl = "{nginx.url}"\nrevalidate = 1.0\n')
    mount = lazysif(config=configuration)
    path = mount.path / "site/job.sif"
    with path.open("rb", buffering=0) as job:
        half = len(old.data) // 2
        # every second piece of the first half is cached before the image changes
        for offset in range(0, half, 512 << 10):
            assert os.pread(job.fileno(), 4096, offset) == old.data[offset : offset + 4096]
        replace(target, new)
        outcomes = set()
        for offset in range(0, len(old.data), 4096):
            try:
                got = os.pread(job.fileno(), 4096, offset)
            except OSError as error:
                outcomes.add(os.strerror(error.errno))
            else:
                assert got == old.data[offset : offset + 4096], offset
                outcomes.add("old bytes")
        assert outcomes == {"old bytes", "Stale file handle"}
        deadline_s = time.monotonic() + 5
        while opened_now(path) != hashlib.sha256(new.data).hexdigest():
            assert time.monotonic() < deadline_s, "the new image does not come"
            time.sleep(0.1)
        assert os.pread(job.fileno(), 4096, 0) == old.data[:4096]
    assert os.stat(path).st_size == len(new.data)
    assert mount.counters()["image_changes"] > 0


def opened_now(path: Path) -> str:
    """SHA-256 of what a new open gives; for at most `revalidate` and a second it may still be the old version."""
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return "stale"


def replace(target: Path, image: BuiltImage) -> None:
    """As sites do it: a new file under the old name, in one step, and never in the same second as the last."""
    unfinished = target.with_suffix(".new")
    unfinished.write_bytes(image.data)
    stamp = target.stat().st_mtime + 10 if target.exists() else time.time() - 1000
    os.utime(unfinished, (stamp, stamp))
    unfinished.replace(target)
