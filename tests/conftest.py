"""Fixtures of all tests: a clean environment, images, a web server, a mount that leaves nothing behind.

With LAZYSIF_CI set a skipped test counts as failed, unless its reason is listed in `ALLOWED_SKIPS`: where all
is installed on purpose, "nginx is not installed" means that a proof is missing.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.images import CannotBuild
from tests.support.images import BuiltImage, Images
from tests.support.mount import Mount
from tests.support.nginx import Nginx

ALLOWED_SKIPS: tuple[str, ...] = ("this interpreter is closed to other users",)
"""Beginnings of reasons for which a test may be skipped even in continuous integration."""

FUSE_DEVICE = Path("/dev/fuse")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("LAZYSIF_CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(reason.removeprefix("Skipped: ").startswith(allowed) for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be skipped (LAZYSIF_CI): {reason}"


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """No proxies and no settings of the caller reach a test or what it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            settings = ("LAZYSIF_", "APPTAINER", "SINGULARITY")
            kept = ("LAZYSIF_CI", "LAZYSIF_TEST_IMAGES")
            if name.lower().endswith("_proxy") or (name.startswith(settings) and name not in kept):
                patch.delenv(name)
        yield


@pytest.fixture
def tool() -> Callable[[str], str]:
    """`tool("fio")`: the path of a program, or a skip that says it is missing."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Builds images on demand, each once a session: `images.small("zstd")`."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("mksquashfs is not installed")
    return Images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def small_image(images: Images) -> BuiltImage:
    """About 6 MB of made-up files; `.tree` has them unpacked."""
    return images.small()


@pytest.fixture(scope="session")
def real_image(images: Images) -> BuiltImage:
    """A Debian with Python and numpy, about 100 MB; the first build on a machine takes a minute."""
    try:
        return images.real()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """A real nginx over an empty directory: put files or links to images into `nginx.root`."""
    root = tmp_path / "served"
    root.mkdir()
    try:
        with Nginx(root) as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


def pytest_sessionstart(session: pytest.Session) -> None:
    """As root, open /dev/fuse to ordinary users while tests run, as udev does elsewhere; for all workers at once."""
    if FUSE_DEVICE.exists() and os.geteuid() == 0 and not hasattr(session.config, "workerinput"):
        mode = stat.S_IMODE(FUSE_DEVICE.stat().st_mode)
        session.config.add_cleanup(lambda: FUSE_DEVICE.chmod(mode))
        FUSE_DEVICE.chmod(0o666)


@pytest.fixture(scope="session")
def fuse() -> None:
    """What real mounts need."""
    if not FUSE_DEVICE.exists():
        pytest.skip("/dev/fuse is missing")
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed")
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is closed to this user")


MakeMount = Callable[..., Mount]


@pytest.fixture
def lazysif(tmp_path: Path, fuse: None, request: pytest.FixtureRequest) -> Iterator[MakeMount]:
    """`lazysif(URL)` or `lazysif(config=FILE)`: a `Mount`, started, with directories of its own.

    At the end each is unmounted, and it is an error if a mount or a process is left.
    """
    mounts: list[Mount] = []

    def make(source: str | None = None, *, start: bool = True, **settings: Any) -> Mount:
        mount = Mount(tmp_path / f"m{len(mounts)}", source, **settings)
        mounts.append(mount)
        return mount.start() if start else mount

    yield make
    problems = []
    for mount in reversed(mounts):
        try:
            mount.finish()
        except AssertionError as error:
            problems.append(str(error))
        request.node.add_report_section("teardown", "log of the daemon", mount.log()[-20_000:])
    assert not problems, problems
