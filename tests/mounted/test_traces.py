"""Traces on real mounts: a first start that follows one asks in few requests, on this node and on the next."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.nginx import LoggedRequest, Nginx
from lazysif.core.trace import Trace
from lazysif.traces.store import TraceStore
from lazysif.traces.trace_file import SUFFIX, read_trace
from tests.support.images import BuiltImage
from tests.support.mount import Mount, scrubbed_environment, wait_until
from tests.support.nginx import overlaps

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(180)]

MakeMount = Callable[..., Mount]
JOB = ("python3", "-c", "import json, email.message, sqlite3; print(json.dumps(6 * 7))")


@pytest.fixture
def apptainer(tool: Callable[[str], str]) -> str:
    return tool("apptainer")


@pytest.fixture
def origin(nginx: Nginx, real_image: BuiltImage) -> Nginx:
    (nginx.root / "job.sif").symlink_to(real_image.path)
    return nginx


def start_job(image: Path, *command: str) -> str:
    """What the job printed."""
    return subprocess.run(
        ["apptainer", "exec", "--no-privs", str(image), *(command or JOB)],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
        env=scrubbed_environment(),
    ).stdout


def configured(directory: Path, origin: Nginx, traces: str) -> Path:
    file = directory / "lazysif.toml"
    file.write_text(f'[traces]\n{traces}\n[remote.site]\nkind = "http"\nurl = "{origin.url}"\n')
    return file


def data_requests(origin: Nginx) -> list[LoggedRequest]:
    return [request for request in origin.requests("/job.sif") if request.status == 206]


def only_trace(mount: Mount) -> Trace:
    (trace,) = TraceStore(mount.state_dir).traces()
    return trace


def test_a_first_start_with_a_trace_asks_in_few_requests(
    apptainer: str, origin: Nginx, lazysif: MakeMount
) -> None:
    mount = lazysif(origin.url)
    assert start_job(mount.path / "job.sif") == "42\n"
    mount.umount()  # ends the recording
    without = data_requests(origin)
    touched = only_trace(mount)
    assert touched.name == "job.sif"
    shutil.rmtree(mount.cache_dir)
    origin.clear_log()
    mount.start()
    assert start_job(mount.path / "job.sif") == "42\n"
    followed, counters = data_requests(origin), mount.counters()
    assert len(followed) < 0.75 * len(without)
    assert counters["prefetch_blocks"] > touched.blocks / 2
    assert counters["misses"] < touched.blocks / 5
    metadata_bytes = 4 << 20
    assert sum(request.bytes for request in followed) < 1.2 * touched.blocks * 131072 + metadata_bytes
    assert counters["errors"] == 0


def test_a_herd_that_follows_a_trace_fetches_no_byte_twice(
    apptainer: str, origin: Nginx, lazysif: MakeMount
) -> None:
    mount = lazysif(origin.url)
    start_job(mount.path / "job.sif")
    mount.umount()
    shutil.rmtree(mount.cache_dir)
    origin.clear_log()
    mount.start()
    with ThreadPoolExecutor(20) as tasks:
        assert list(tasks.map(start_job, [mount.path / "job.sif"] * 20)) == ["42\n"] * 20
    assert overlaps(origin.requests(), "/job.sif") == []
    assert mount.counters()["prefetch_blocks"] > 0
    assert mount.counters()["errors"] == 0


def test_a_short_job_does_not_fetch_what_a_long_one_did(
    apptainer: str, origin: Nginx, lazysif: MakeMount
) -> None:
    mount = lazysif(origin.url)
    start_job(mount.path / "job.sif", "python3", "-c", "import numpy")
    mount.umount()
    long_bytes = only_trace(mount).blocks * 131072
    shutil.rmtree(mount.cache_dir)
    mount.start()
    start_job(mount.path / "job.sif", "/bin/true")
    assert mount.counters()["fetched_bytes"] < min(12_000_000, long_bytes / 1.5)


def test_a_second_node_follows_what_the_first_put_into_a_folder(
    apptainer: str, origin: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    config = configured(tmp_path, origin, f'dir = "{shared}"\noffer_within = 0')
    one = lazysif(config=config)
    start_job(one.path / "site/job.sif")
    wait_until(lambda: one.counters()["traces_offered"] == 1, "nothing was offered")
    (file,) = shared.iterdir()
    trace = read_trace(file)
    assert trace is not None
    origin.clear_log()
    two = lazysif(config=config)
    assert start_job(two.path / "site/job.sif") == "42\n"
    assert two.counters()["traces_learned"] == 1
    assert two.counters()["prefetch_blocks"] > trace.blocks / 2


@pytest.fixture
def dav(tmp_path: Path) -> Iterator[Nginx]:
    """A web server that takes files."""
    root = tmp_path / "dav"
    root.mkdir()
    try:
        with Nginx(root, server="dav_methods PUT; dav_access user:rw all:r;") as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_a_node_puts_what_it_learned_onto_a_web_server_and_the_next_finds_it(
    apptainer: str, origin: Nginx, dav: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    config = configured(tmp_path, origin, f'url = "{dav.url}"\nput = true\noffer_within = 0\nbeside = false')
    one = lazysif(config=config)
    start_job(one.path / "site/job.sif")
    wait_until(lambda: one.counters()["traces_recorded"] == 1, "nothing was recorded")
    wait_until(lambda: one.counters()["traces_offered"] == 1, "nothing was offered")
    (put,) = [request for request in dav.requests() if request.method == "PUT"]
    assert put.status == 201
    trace = read_trace(dav.root / Path(put.uri).name)
    assert trace is not None
    two = lazysif(config=config)
    assert start_job(two.path / "site/job.sif") == "42\n"
    assert two.counters()["traces_learned"] == 1
    assert two.counters()["prefetch_blocks"] > trace.blocks / 2


def test_a_publisher_records_a_trace_that_every_node_finds_beside_the_image(
    apptainer: str, origin: Nginx, lazysif: MakeMount, tmp_path: Path
) -> None:
    unused = lazysif(origin.url, start=False)
    output = origin.root / f"job.sif{SUFFIX}"
    uri = f"{origin.url}/job.sif"
    done = unused.run(
        "trace", "record", "--output", output, uri, "--", "apptainer", "exec", "--no-privs", "{}", *JOB
    )
    assert "1 paths in all" in done.stdout
    mount = lazysif(origin.url)
    assert start_job(mount.path / "job.sif") == "42\n"
    assert mount.counters()["traces_learned"] == 1
    assert mount.counters()["prefetch_blocks"] > 0
    mount.umount()
    mount.start()
    start_job(mount.path / "job.sif")
    assert len(origin.requests(f"/job.sif{SUFFIX}")) == 1, "asked for once a day"
