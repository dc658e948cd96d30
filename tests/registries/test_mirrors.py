"""Mirrors under a real mount: the origin dies, a mirror is of another version, a mirror dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mount import Mount
from tests.support.nginx import Nginx

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(120)]

MakeMount = Callable[..., Mount]
SIZE = 9 << 20
OWN_ETAG = 'etag off; add_header ETag "\\"of-its-own\\"";'


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def copies(tmp_path: Path, data: bytes) -> list[Path]:
    """Two directories with the same files, times included, as rsync -t makes them."""
    made = [tmp_path / name for name in ("origin", "mirror")]
    made[0].mkdir()
    for name in ("a.sif", "b.sif"):
        (made[0] / name).write_bytes(data)
        os.utime(made[0] / name, (1e9, 1e9))
    shutil.copytree(made[0], made[1])
    return made


@pytest.fixture
def servers(copies: list[Path], tool: Callable[[str], str]) -> Iterator[list[Nginx]]:
    tool("nginx")
    with ExitStack() as stack:
        yield [
            stack.enter_context(Nginx(copies[0])),
            stack.enter_context(Nginx(copies[1], server=OWN_ETAG)),
        ]


@pytest.fixture
def mount(servers: list[Nginx], lazysif: MakeMount, tmp_path: Path) -> Mount:
    configuration = tmp_path / "lazysif.toml"
    configuration.write_text(
        f'[remote.r]\nkind = "http"\nurl = "{servers[0].url}"\nmirrors = ["{servers[1].url}"]\nrevalidate = 0.5\n'
        "[limits]\nread_timeout = 20.0\nlookup_timeout = 10.0\n"
    )
    return lazysif(config=configuration)


def test_a_mirror_serves_while_the_origin_is_gone(servers: list[Nginx], mount: Mount, data: bytes) -> None:
    """With ETags of its own: size and time tell that it is the same file."""
    origin, mirror = servers
    with (mount.path / "r/a.sif").open("rb", buffering=0) as job:
        assert os.pread(job.fileno(), 4096, 0) == data[:4096]
        assert sum(request.bytes for request in origin.requests("/a.sif")) <= 1, "the version, and no bytes"
        origin.close()
        assert os.pread(job.fileno(), SIZE, 0) == data
    for _ in range(3):
        assert (mount.path / "r/a.sif").read_bytes() == data
    assert (mount.path / "r/b.sif").read_bytes() == data, "a name that nothing was known of"
    assert sorted(os.listdir(mount.path / "r")) == ["a.sif", "b.sif"]
    assert mount.counters()["errors"] == 0
    (status,) = mount.status()["remotes"]
    assert status["offline_since"] is None
    assert [way["state"] for way in status["ways"]] == ["ready", "resting"]
    assert mirror.requests("/b.sif")


def test_a_mirror_of_another_version_is_never_mixed_in(
    servers: list[Nginx], copies: list[Path], mount: Mount, data: bytes
) -> None:
    old = copies[1] / "a.sif"
    old.write_bytes(os.urandom(SIZE))
    os.utime(old, (0.9e9, 0.9e9))
    assert (mount.path / "r/a.sif").read_bytes() == data
    counters = mount.counters()
    assert counters["mirror_disagreements"] > 0
    assert counters["errors"] == 0
    assert (mount.path / "r/b.sif").read_bytes() == data
    sent = sum(request.bytes for request in servers[1].requests("/b.sif") if request.status == 206)
    assert sent == SIZE, "for other images it is used"


def test_a_mirror_that_dies_under_a_reader(servers: list[Nginx], mount: Mount, data: bytes) -> None:
    with (mount.path / "r/a.sif").open("rb", buffering=0) as job:
        assert os.pread(job.fileno(), 4096, 0) == data[:4096]
        servers[1].close()
        assert os.pread(job.fileno(), SIZE, 0) == data
    counters = mount.counters()
    assert counters["failovers"] > 0
    assert counters["errors"] == 0
