"""Listings of kind http from the index pages of real servers: nginx, Apache and Caddy, in each of their forms."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from lazysif.model import DirectoryEntry, EntryKind
from lazysif.registries.http import HttpRegistry
from lazysif.transport.httpx_transport import HttpxTransport
from tests.support.nginx import Nginx
from tests.support.site_caches import free_port

NAMES = (
    "plain.sif",
    "two words.sif",
    "ünïcode é.sif",
    "per%cent%20.sif",
    "a+b&c=d;e.sif",
    "<i>&amp;.sif",
    "quote'\".sif",
    "hash#?.sif",
    "x" * 200 + ".sif",
    "colon:tag@x.sif",
)
DIRECTORIES = ("sub", "sub dir")
APACHE = """\
ServerRoot {directory}
ServerName cache.site
Listen 127.0.0.1:{port}
PidFile {directory}/apache.pid
ErrorLog /dev/stderr
{modules}
DocumentRoot {root}
<Directory {root}>
  Require all granted
  Options +Indexes
  {options}
</Directory>
"""
APACHE_MODULES = "/usr/lib/apache2/modules"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    root.mkdir(mode=0o755)
    for name in NAMES:
        (root / name).write_bytes(b"x")
    for name in DIRECTORIES:
        (root / name).mkdir()
    return root


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """A server in the foreground; yields its URL."""
    environment = {**os.environ, "HOME": "/nonexistent"}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=environment,
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    process.kill()
                    raise RuntimeError(f"{command}: {process.communicate()[0]!r}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def apache(directory: Path, root: Path, options: str, tool: Callable[[str], str]) -> tuple[list[str], int]:
    port = free_port()
    modules = [
        f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so"
        for name in ("mpm_event", "authz_core", "autoindex", "dir", "mime", "unixd")
        if Path(f"{APACHE_MODULES}/mod_{name}.so").exists()
    ]
    modules.append("TypesConfig /dev/null")
    if os.geteuid() == 0:
        modules.append("User nobody\nGroup nogroup")
    configuration = directory / "apache.conf"
    text = APACHE.format(
        directory=directory, port=port, root=root, modules="\n".join(modules), options=options
    )
    configuration.write_text(text)
    for parent in (root, *root.parents):
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return [tool("apache2"), "-f", str(configuration), "-DFOREGROUND"], port


def listed(url: str) -> set[DirectoryEntry]:
    async def ask() -> tuple[DirectoryEntry, ...] | None:
        transport = HttpxTransport(url)
        try:
            return await HttpRegistry(url, transport).list("")
        finally:
            await transport.aclose()

    found = trio.run(ask)
    assert found is not None, "it is taken for an index page"
    return set(found)


def expected() -> set[DirectoryEntry]:
    files = {DirectoryEntry(name, EntryKind.FILE) for name in NAMES}
    return files | {DirectoryEntry(name, EntryKind.DIRECTORY) for name in DIRECTORIES}


@pytest.mark.parametrize("form", ["html", "json"])
def test_nginx(form: str, root: Path, tool: Callable[[str], str]) -> None:
    tool("nginx")
    with Nginx(root, autoindex=form) as server:  # type: ignore[arg-type]
        assert listed(server.url) == expected()


@pytest.mark.parametrize(
    "options",
    [
        "IndexOptions Charset=UTF-8",
        "IndexOptions FancyIndexing NameWidth=20",
        "IndexOptions FancyIndexing HTMLTable",
    ],
)
def test_apache(options: str, root: Path, tmp_path: Path, tool: Callable[[str], str]) -> None:
    command, port = apache(tmp_path, root, options, tool)
    with running(command, port) as url:
        assert listed(url) == expected()


def test_caddy(root: Path, tool: Callable[[str], str]) -> None:
    port = free_port()
    command = [tool("caddy"), "file-server", "--browse", "--root", str(root), "--listen", f"127.0.0.1:{port}"]
    with running(command, port) as url:
        assert listed(url) == expected()
